"""Checkpoints of many layouts give what their modules give, and what no tensor tells is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bilstm_server.errors import ModelError
from bilstm_server.model import RaggedBatch, import_checkpoint, load_model
from tests.model.storage.importing.judges import Layout
from tests.model.storage.importing.layouts import LAYOUTS

LENGTHS = (1, 2, 5)


def save(layout: Layout, path: Path) -> None:
    torch.save(layout.wrapped(layout.module().state_dict()), path)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, tmp_path: Path) -> None:
    """What is imported gives every sequence of a batch what the module gives it alone."""
    layout = LAYOUTS[name]
    save(layout, tmp_path / "model.pt")
    config = import_checkpoint(tmp_path / "model.pt", tmp_path / "out", **layout.flags)
    assert list(config.inputs) == list(layout.inputs)
    encoder = load_model(tmp_path / "out")
    sequences = [layout.draw(steps) for steps in LENGTHS]
    inputs = [torch.cat(parts) for parts in zip(*sequences, strict=True)]
    module = layout.module()
    with torch.no_grad():
        expected = [layout.outputs(module, *sequence) for sequence in sequences]
        given = encoder(inputs, RaggedBatch(np.array(LENGTHS)), outputs=list(expected[0]))
    for output, values in given.items():
        per_step = config.output_values[output].per_step
        rows = torch.split(values, list(LENGTHS) if per_step else 1)
        for row, own in zip(rows, expected, strict=True):
            found = row if per_step else row[0]
            torch.testing.assert_close(found.to(own[output].dtype), own[output], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.flags])
def test_nothing_is_guessed(name: str, tmp_path: Path) -> None:
    """Without what no tensor tells, the same checkpoint is refused with the flag to say it."""
    layout = LAYOUTS[name]
    save(layout, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"no tensor tells|it may read|say --head-prefix") as e:
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert "--" in str(e.value)
    assert not (tmp_path / "out").exists()
