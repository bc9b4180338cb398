"""The judge of a server's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from tests.lifecycle.calls import Array, Judge


@pytest.fixture(scope="module")
def judge(model_folder: Path) -> Judge:
    engine = Engine.load(model_folder, "cpu", "float32", "auto")

    def states(x: Array) -> Array:
        (output,) = engine.run([SequenceInput((x,), frozenset({"states"}))])
        return output.arrays["states"]

    return states
