"""Models that are read from files of Keras, and run or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilstm_server.errors import ModelError
from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.kernels import RaggedBatch
from bilstm_server.model.storage.from_keras import read_keras

Outputs = Mapping[str, np.ndarray]


def load(path: Path) -> SequenceEncoder:
    model = read_keras(path)
    assert model.config is not None
    encoder = SequenceEncoder(model.config)
    encoder.load_state_dict(model.tensors)
    return encoder.eval()


def encode(encoder: SequenceEncoder, *inputs: Any) -> Outputs:
    """All outputs of one sequence."""
    steps = RaggedBatch(np.array([len(inputs[0])]))
    names = list(encoder.config.outputs)
    with torch.no_grad():
        outputs = encoder([torch.from_numpy(np.asarray(x)) for x in inputs], steps, None, names)
    values = encoder.config.output_values
    return {
        name: y.numpy() if values[name].per_step else y[0].numpy() for name, y in outputs.items()
    }


def refusal(path: Path) -> str:
    """The one line in which a file is refused, without its name."""
    with pytest.raises(ModelError) as refused:
        read_keras(path)
    words = str(refused.value)
    assert "\n" not in words
    assert words.startswith(f"{path}: ")
    return words.removeprefix(f"{path}: ")


def close(mine: np.ndarray, expected: Sequence[float] | np.ndarray) -> None:
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-5)
