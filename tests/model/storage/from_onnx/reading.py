"""ONNX files that are made for a test, and models that are read from them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bilstm_server.errors import ModelError
from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.kernels import RaggedBatch
from bilstm_server.model.storage.from_onnx import read_onnx

Outputs = Mapping[str, np.ndarray]


def export(module: nn.Module, example: Any, path: Path, **options: Any) -> Path:
    """Write a file as `torch.onnx.export` does by TorchScript, which needs no other package."""
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(module.eval(), example, path, dynamo=False, opset_version=18, **options)
    return path


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    numbers: Mapping[str, Any],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    kinds: Mapping[str, int] | None = None,
) -> Path:
    """Write a graph of nodes made by hand; inputs are of floats, or as `kinds` says."""
    kinds = kinds or {}
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in numbers.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """A node that is named as its first output."""
    return helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)


def load(path: Path) -> SequenceEncoder:
    model = read_onnx(path)
    assert model.config is not None
    encoder = SequenceEncoder(model.config)
    encoder.load_state_dict(model.tensors)
    return encoder.eval()


def encode(encoder: SequenceEncoder, *inputs: Tensor) -> Outputs:
    """All outputs of one sequence."""
    steps = RaggedBatch(np.array([len(inputs[0])]))
    names = list(encoder.config.outputs)
    with torch.no_grad():
        outputs = encoder(list(inputs), steps, None, names)
    values = encoder.config.output_values
    return {
        name: y.numpy() if values[name].per_step else y[0].numpy() for name, y in outputs.items()
    }


def refusal(path: Path) -> str:
    """The one line in which a file is refused, without its name."""
    with pytest.raises(ModelError) as refused:
        read_onnx(path)
    words = str(refused.value)
    assert "\n" not in words
    assert words.startswith(f"{path}: ")
    return words.removeprefix(f"{path}: ")


def close(mine: np.ndarray, expected: Tensor | np.ndarray) -> None:
    expected = expected.detach().numpy() if isinstance(expected, Tensor) else expected
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-5)
