"""The judge of a stream's results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from tests.rpc.streams.served import Array


@pytest.fixture(scope="module")
def judge(model_folder: Path) -> Callable[[Array], Array]:
    """The states of a sequence that is computed alone and whole."""
    engine = Engine.load(model_folder, "cpu", "float32", "auto")

    def states_of(x: Array) -> Array:
        (output,) = engine.run([SequenceInput((x,), frozenset({"states"}))])
        return output.arrays["states"]

    return states_of
