"""Checkpoints of many layouts give what their modules give, and what no tensor tells is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bilstm_server.errors import ModelError
from bilstm_server.exporting.proof import Example, prove
from bilstm_server.model import import_checkpoint
from tests.model.storage.importing.judges import Layout
from tests.model.storage.importing.layouts import LAYOUTS

LENGTHS = (1, 2, 5)


def save(layout: Layout, path: Path) -> None:
    torch.save(layout.wrapped(layout.module().state_dict()), path)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, tmp_path: Path) -> None:
    """What is imported is served with what the module gives each sequence alone: alone, in a batch
    with others, and in the parts of a stream."""
    layout = LAYOUTS[name]
    save(layout, tmp_path / "model.pt")
    config = import_checkpoint(tmp_path / "model.pt", tmp_path / "out", **layout.flags)
    assert list(config.inputs) == list(layout.inputs)
    module, examples = layout.module(), []
    for sequence in map(layout.draw, LENGTHS):
        with torch.no_grad():
            outputs = layout.outputs(module, *sequence)
        inputs = {name: x.numpy() for name, x in zip(layout.inputs, sequence, strict=True)}
        examples.append(Example(inputs, {name: y.numpy() for name, y in outputs.items()}))
    proof = prove(tmp_path / "out", examples)
    assert proof.holds, proof.table()
    assert proof.largest < 1e-5


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.flags])
def test_nothing_is_guessed(name: str, tmp_path: Path) -> None:
    """Without what no tensor tells, the same checkpoint is refused with the flag to say it."""
    layout = LAYOUTS[name]
    save(layout, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"no tensor tells|it may read|say --head-prefix") as e:
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert "--" in str(e.value)
    assert not (tmp_path / "out").exists()
