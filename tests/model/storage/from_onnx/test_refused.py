"""What can't be served of ONNX is refused with the node's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.model.storage.from_onnx.reading import node, refusal, write

LSTM_NUMBERS = {
    "W": np.ones((1, 16, 3), np.float32),
    "R": np.ones((1, 16, 4), np.float32),
}
LSTM = node("LSTM", ["X", "W", "R"], ["Y", "Y_h"], hidden_size=4)


def numbers(*values: Any) -> np.ndarray:
    return np.array(values)


# Nodes behind an LSTM's Y [steps, 1, batch, 4], the numbers that they read, and the words.
REFUSED: list[tuple[Sequence[Any], dict[str, Any], str]] = [
    ([node("Hardmax", ["Y"], ["Z"])], {}, "node 'Z' (Hardmax): has no type here"),
    (
        [node("Slice", ["Y", "a", "b", "c"], ["Z"])],
        {"a": numbers(1), "b": numbers(3), "c": numbers(0)},
        "takes some of the steps or sequences",
    ),
    ([node("Gather", ["Y", "a"], ["Z"], axis=0)], {"a": np.array(2)}, "takes another step"),
    ([node("Gather", ["Y", "a"], ["Z"], axis=2)], {"a": np.array(0)}, "takes another step"),
    (
        [node("Gather", ["Y", "a"], ["Z"], axis=3)],
        {"a": numbers(0, 2)},
        "gathers several columns, steps or sequences",
    ),
    ([node("Reshape", ["Y", "a"], ["Z"])], {"a": numbers(4, -1)}, "into columns, which is not"),
    ([node("Flatten", ["Y"], ["Z"], axis=2)], {}, "flattens sequences or steps"),
    ([node("Squeeze", ["Y"], ["Z"])], {}, "must name them"),
    (
        [node("Squeeze", ["Y", "a"], ["Z"])],
        {"a": numbers(3)},
        "squeezes an axis of steps, or one whose size is not 1",
    ),
    ([node("Expand", ["Y", "a"], ["Z"])], {"a": numbers(1, 5, 1, 4)}, "repeats columns"),
    ([node("Concat", ["Y", "Y"], ["Z"], axis=0)], {}, "joins steps or sequences"),
    (
        [node("Add", ["Y", "a"], ["Z"])],
        {"a": np.ones((9, 1, 1, 4), np.float32)},
        "has numbers for each step or sequence",
    ),
    ([node("Softmax", ["Y"], ["Z"], axis=2)], {}, "of another axis than that of the last"),
    ([node("ReduceMean", ["Y", "a"], ["Z"])], {"a": numbers(2)}, "is over sequences"),
    ([node("ArgMax", ["Y"], ["Z"], axis=0)], {}, "of another axis than that of all columns"),
    ([node("MatMul", ["Y", "Y"], ["Z"])], {}, "no attention over the steps"),
    (
        [
            node("Transpose", ["Y"], ["t"], perm=[1, 2, 3, 0]),
            node("Slice", [*"tabc"], ["u"]),
            node("Transpose", ["Y"], ["v"], perm=[1, 2, 0, 3]),
            node("Slice", [*"vabd"], ["w"]),
            node("Sub", ["u", "w"], ["Z"]),
        ],
        {"a": numbers(0), "b": numbers(1), "c": numbers(2), "d": numbers(3)},
        "pairs steps with steps",
    ),
    (
        [node("Cast", ["Y"], ["Z"], to=TensorProto.INT64)],
        {},
        "makes whole numbers or truth values of floats",
    ),
    (
        [node("Dropout", ["Y", "", "a"], ["Z"])],
        {"a": np.array(True)},
        "drops numbers in inference too",
    ),
    (
        [node("MatMul", ["Y", "a"], ["Z"])],
        {"a": np.ones((5, 2), np.float32)},
        "multiplies 4 columns with a matrix of 5 rows",
    ),
    (
        [node("Conv", ["Y", "a"], ["Z"])],
        {"a": np.ones((2, 1, 3, 3), np.float32)},
        "is not over steps alone; serve the model from its features on",
    ),
    (
        [node("LayerNormalization", ["Y", "a"], ["Z"], axis=1)],
        {"a": np.ones(4, np.float32)},
        "of other axes than that of the last columns",
    ),
    (
        [
            node("Shape", ["Y"], ["s"]),
            node("Mul", ["s", "s"], ["t"]),
            node("Add", ["t", "a"], ["u"]),
            node("Reshape", ["Y", "u"], ["Z"]),
        ],
        {"a": numbers(1, 1, 1, 1)},
        "node 'u' (Add): computes numbers in a way that is not served",
    ),
    (
        [node("Mul", ["a", "b"], ["c"]), node("Add", ["Y", "c"], ["Z"])],
        {"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)},
        "node 'c' (Mul)",
    ),
    (
        [helper.make_node("Fast", ["Y"], ["Z"], domain="mine", name="Z")],
        {},
        "node 'Z' (mine.Fast): has no type here",
    ),
]


@pytest.mark.parametrize(
    ("nodes", "own", "words"), REFUSED, ids=[f"{c[0][-1].op_type}: {c[2][:30]}" for c in REFUSED]
)
def test_a_node(nodes: Sequence[Any], own: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A node that would mix steps, sequences and columns, or that has no type, is named."""
    path = write(
        tmp_path / "model.onnx",
        [LSTM, *nodes],
        LSTM_NUMBERS | own,
        {"X": ["steps", "batch", 3]},
        ["Z"],
    )
    said = refusal(path)
    assert words in said
    assert said.startswith("node ")


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        (["batch", 1, 8, "steps"], TensorProto.FLOAT, "input 'X' is [None, 1, 8, None]"),
        (["steps", "batch", "width"], TensorProto.FLOAT, "the number of features known"),
        ([], TensorProto.FLOAT, "input 'X' is []"),
        (["steps", "batch", 3], TensorProto.INT64, "input 'X' is [None, None, 3]"),
    ],
)
def test_an_input(shape: Sequence[Any], kind: int, words: str, tmp_path: Path) -> None:
    """An input that is neither ids nor features for each step is named with its shape."""
    path = tmp_path / "model.onnx"
    write(path, [LSTM], LSTM_NUMBERS, {"X": shape}, ["Y"], {"X": kind})
    assert words in refusal(path)


def test_sequences_where_steps_are_expected(tmp_path: Path) -> None:
    """Where no reading of the inputs' axes fits, what the LSTM reads is said."""
    nodes = [
        node("Transpose", ["X"], ["t"], perm=[2, 1, 0]),
        node("LSTM", ["t", "W", "R"], ["Y"], hidden_size=4),
    ]
    path = write(tmp_path / "model.onnx", nodes, LSTM_NUMBERS, {"X": [3, 3, 3]}, ["Y"])
    assert "reads no [steps, sequences, columns]" in refusal(path)


def test_no_lstm(tmp_path: Path) -> None:
    """A model without an LSTM is none for this server."""
    nodes = [node("Relu", ["X"], ["Z"])]
    path = write(tmp_path / "model.onnx", nodes, {}, {"X": ["batch", "steps", 3]}, ["Z"])
    assert "must have an lstm" in refusal(path)


def test_a_model_that_is_made_in_parts(tmp_path: Path) -> None:
    """Sparse tensors are refused."""
    path = write(tmp_path / "model.onnx", [LSTM], LSTM_NUMBERS, {"X": ["s", "b", 3]}, ["Y"])
    model = onnx.load(path)
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))
    path.write_bytes(model.SerializeToString())
    assert "has sparse tensors" in refusal(path)
