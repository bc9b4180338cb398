"""Files that are damaged, or made to harm, end in one line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from bilstm_server.errors import ModelError
from bilstm_server.model.storage.from_onnx import read_onnx
from tests.model.storage.from_onnx.reading import node, refusal, write
from tests.model.storage.from_onnx.test_refused import LSTM, LSTM_NUMBERS


def a_model(path: Path, *nodes: Any, **numbers: Any) -> Path:
    own = LSTM_NUMBERS | numbers
    return write(path, [*nodes, LSTM], own, {"X": ["steps", "batch", 3]}, ["Y"])


def external(path: Path, **entries: str) -> Path:
    """A file whose W is in another one."""
    model = onnx.load(a_model(path))
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == "W"]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def weights(path: Path, offset: int = 0) -> Path:
    path.write_bytes(bytes(offset) + np.full((1, 16, 3), 2, np.float32).tobytes())
    return path


def test_tensors_beside_the_model(tmp_path: Path) -> None:
    """A tensor that is in a file of the same folder, at an offset, is read."""
    weights(tmp_path / "model.data", offset=64)
    path = external(tmp_path / "model.onnx", location="model.data", offset="64")
    assert (read_onnx(path).tensors["Y.weight_ih_l0"] == 2).all()


def test_tensors_outside_of_the_folder(tmp_path: Path) -> None:
    """A tensor in a file that is elsewhere, by its path or by a link, is refused unread."""
    folder = tmp_path / "model"
    folder.mkdir()
    outside = weights(tmp_path / "outside.data")
    (folder / "link.data").symlink_to(outside)
    for location in ("../outside.data", str(outside), "link.data", ""):
        path = external(folder / "model.onnx", location=location)
        assert "outside of the model's folder" in refusal(path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "model.data", "offset": "64"}, "and model.data ends before"),
        ({"location": "model.data", "offset": "-8"}, "tensor W is in no place of model.data"),
        ({"location": "model.data", "offset": "many"}, "tensor W is in no place of model.data"),
        ({"location": "no.data"}, "no such file"),
    ],
)
def test_tensors_that_are_not_there(entries: dict[str, str], words: str, tmp_path: Path) -> None:
    """A tensor that another file does not hold is refused."""
    weights(tmp_path / "model.data")
    with pytest.raises(ModelError, match=words):
        read_onnx(external(tmp_path / "model.onnx", **entries))


def test_numbers_without_end(tmp_path: Path) -> None:
    """Nodes that would make more numbers than memory has are refused before they do."""
    huge, bounds = np.array([2**20, 2**20]), np.array([0, 2**40, 1])
    wide, many = np.zeros((1, 2**20), np.float32), np.zeros(2**20, np.int64)
    doubled = [node("Concat", [f"n{i}", f"n{i}"], [f"n{i + 1}"], axis=0) for i in range(40)]
    for nodes, numbers in (
        ([node("ConstantOfShape", ["a"], ["Z"])], {"a": huge}),
        ([node("Expand", ["b", "a"], ["Z"])], {"a": huge, "b": np.ones(1, np.float32)}),
        ([node("Range", ["a", "b", "c"], ["Z"])], dict(zip("abc", bounds, strict=True))),
        ([node("Gather", ["a", "b"], ["Z"], axis=0)], {"a": wide, "b": many}),
        ([node("Where", ["a", "b", "b"], ["Z"])], {"a": many[:, None] > 0, "b": wide}),
        ([*doubled, node("Identity", ["n40"], ["Z"])], {"n0": np.ones(1, np.float32)}),
    ):
        behind = node("Add", ["Y", "Z"], ["S"])
        own = LSTM_NUMBERS | numbers
        path = write(
            tmp_path / "model.onnx", [*nodes, LSTM, behind], own, {"X": ["s", "b", 3]}, ["S"]
        )
        assert "numbers, expected at most" in refusal(path)


def test_no_number(tmp_path: Path) -> None:
    """Weights that hold NaN are refused."""
    path = a_model(tmp_path / "model.onnx", W=np.full((1, 16, 3), np.nan, np.float32))
    assert "weight_ih_l0 holds NaN or infinity" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x89HDF\r\n\x1a\n"])
def test_another_file(content: bytes, tmp_path: Path) -> None:
    """A file that is no ONNX model is refused."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "ONNX model" in refusal(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file that is cut short, or has one byte changed, is read or refused, and no more."""
    path = a_model(tmp_path_factory.mktemp("damaged") / "model.onnx")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with suppress(ModelError):
        read_onnx(path)
