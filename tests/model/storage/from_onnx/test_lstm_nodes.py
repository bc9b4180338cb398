"""ONNX's LSTM nodes compute what nn.LSTM does with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from bilstm_server.model.storage.from_onnx import read_onnx
from tests.model.storage.from_onnx.reading import close, encode, load, node, refusal, write

WIDTH, HIDDEN = 3, 4


def in_order_of_onnx(parameter: Tensor) -> np.ndarray:
    """nn.LSTM's input, forget, cell, output as ONNX's input, output, forget, cell."""
    i, f, g, o = parameter.detach().chunk(4)
    return torch.cat([i, o, f, g]).numpy()


def numbers_of(module: nn.LSTM, *, bias: bool) -> dict[str, np.ndarray]:
    """W, R and B of all directions."""
    suffixes = ("", "_reverse") if module.bidirectional else ("",)

    def stacked(name: str) -> np.ndarray:
        return np.stack([in_order_of_onnx(getattr(module, f"{name}_l0{s}")) for s in suffixes])

    numbers = {"W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if bias:
        numbers["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], 1)
    return numbers


def make(
    path: Path, module: nn.LSTM, *, states: bool = False, lstm: str = "LSTM", **attributes: Any
) -> Path:
    """A file of one LSTM, with all three of its results."""
    numbers = numbers_of(module, bias=module.bias)
    names = ["X", "W", "R", "B" if module.bias else ""]
    if states:
        directions = 2 if module.bidirectional else 1
        shape = (directions, 1, HIDDEN)
        shape = (1, directions, HIDDEN) if attributes.get("layout") else shape
        generator = np.random.default_rng(0)
        for name in ("h", "c"):
            numbers[name] = generator.normal(size=shape).astype(np.float32)
        names += ["", "h", "c"]
    axes: list[int | str] = (
        ["batch", "steps", WIDTH] if attributes.get("layout") else ["steps", "batch", WIDTH]
    )
    nodes = [node(lstm, names, ["Y", "Y_h", "Y_c"], hidden_size=HIDDEN, **attributes)]
    return write(path, nodes, numbers, {"X": axes}, ["Y", "Y_h", "Y_c"])


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_numbers(direction: str, bias: bool, states: bool, layout: int, tmp_path: Path) -> None:
    """All directions, with and without bias and initial states, in both layouts."""
    torch.manual_seed(0)
    directions = 2 if direction == "bidirectional" else 1
    module = nn.LSTM(WIDTH, HIDDEN, bias=bias, bidirectional=directions == 2)
    path = make(tmp_path / "model.onnx", module, states=states, direction=direction, layout=layout)
    x = torch.randn(7, WIDTH)
    hx = None
    if states:
        given = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in numbers_in(path)}
        hx = tuple(
            torch.from_numpy(given[name].copy()).reshape(directions, HIDDEN) for name in ("h", "c")
        )
    with torch.no_grad():
        y, (h, c) = module(x.flip(0) if direction == "reverse" else x, hx)
    y = y.flip(0) if direction == "reverse" else y
    outputs = encode(load(path), x)
    close(outputs["Y"], y)
    close(outputs["Y_h"], h.flatten())
    close(outputs["Y_c"], c.flatten())


def numbers_in(path: Path) -> Any:
    return onnx.load(path).graph.initializer


def test_a_state_that_a_caller_gives(tmp_path: Path) -> None:
    """Initial states that are inputs of the graph are zeros here, and a note says so."""
    module = nn.LSTM(WIDTH, HIDDEN)
    names = ["X", "W", "R", "B", "", "h", "c"]
    nodes = [node("LSTM", names, ["Y"], hidden_size=HIDDEN)]
    state: list[int | str] = [1, "batch", HIDDEN]
    inputs: dict[str, list[int | str]] = {"X": ["steps", "batch", WIDTH], "h": state, "c": state}
    path = write(tmp_path / "model.onnx", nodes, numbers_of(module, bias=True), inputs, ["Y"])
    notes = read_onnx(path).notes
    assert [note.split(":")[0] for note in notes] == [
        "input h is an initial state",
        "input c is an initial state",
    ]
    x = torch.randn(5, WIDTH)
    close(encode(load(path), x)["states"], module(x)[0])


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"clip": 3.0}, "clips, or couples its input and forget gates"),
        ({"input_forget": 1}, "clips, or couples its input and forget gates"),
        ({"activations": ["Sigmoid", "Tanh", "Relu"]}, "its activations are"),
        ({"direction": "bidirectional"}, "W, R or B are of other shapes"),
        ({"direction": "sideways"}, "W, R or B are of other shapes"),
        ({"lstm": "GRU"}, "(GRU): has no type here"),
        ({"lstm": "RNN"}, "(RNN): has no type here"),
    ],
)
def test_other_equations(attributes: dict[str, Any], words: str, tmp_path: Path) -> None:
    """What other equations than nn.LSTM's need is refused with the node's name."""
    module = nn.LSTM(WIDTH, HIDDEN)
    assert words in refusal(make(tmp_path / "model.onnx", module, **attributes))


def test_default_activations_may_be_written(tmp_path: Path) -> None:
    """The activations that every LSTM has may stand in the file."""
    module = nn.LSTM(WIDTH, HIDDEN)
    path = make(tmp_path / "model.onnx", module, activations=["Sigmoid", "Tanh", "Tanh"])
    x = torch.randn(5, WIDTH)
    close(encode(load(path), x)["Y"], module(x)[0])


def test_peepholes(tmp_path: Path) -> None:
    """Peepholes are refused, unless they are all zero."""
    module = nn.LSTM(WIDTH, HIDDEN)
    for factor in (0, 1):
        numbers = numbers_of(module, bias=True) | {
            "P": np.full((1, 3 * HIDDEN), factor, np.float32)
        }
        nodes = [node("LSTM", ["X", "W", "R", "B", "", "", "", "P"], ["Y"], hidden_size=HIDDEN)]
        path = write(
            tmp_path / "model.onnx", nodes, numbers, {"X": ["steps", "batch", WIDTH]}, ["Y"]
        )
        if factor:
            assert "has peepholes" in refusal(path)
        else:
            x = torch.randn(5, WIDTH)
            close(encode(load(path), x)["states"], module(x)[0])
