"""The judge of a server's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.model.config import Output
from tests.lifecycle.calls import Array, Judge


@pytest.fixture(scope="module")
def judge(model_folder: Path) -> Judge:
    engine = Engine.load(model_folder, "cpu", "float32", "auto")

    def states(x: Array) -> Array:
        (output,) = engine.run([SequenceInput(x, frozenset({Output.STATES}))])
        return output.arrays[Output.STATES]

    return states
