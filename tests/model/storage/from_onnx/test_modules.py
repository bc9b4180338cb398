"""Modules that torch exported give the same numbers here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bilstm_server.model.storage.from_onnx import read_onnx
from tests.model.storage.from_onnx import modules
from tests.model.storage.from_onnx.reading import close, encode, export, load


def floats(steps: int, width: int = 3) -> Tensor:
    return torch.randn(1, steps, width)


# A module, its example of one sequence, the axis of its steps, and its outputs here.
MODULES: list[tuple[type[nn.Module], Callable[[int], Tensor], int, list[str]]] = [
    (modules.Tagger, lambda steps: torch.randint(0, 20, (1, steps)), 1, ["logits"]),
    (modules.Classifier, floats, 1, ["probabilities"]),
    (modules.StepsFirst, lambda steps: torch.randn(steps, 1, 3), 0, ["logits"]),
    (modules.Attention, floats, 1, ["a", "b"]),
    (modules.Products, floats, 1, ["a"]),
    (modules.Directions, lambda steps: floats(steps, 4), 1, ["a"]),
    (modules.Speaker, floats, 1, ["a"]),
    (modules.Gelu, floats, 1, ["logits"]),
    (modules.Learned, floats, 1, ["states"]),
    (modules.Unbatched, lambda steps: torch.randn(steps, 3), 0, ["states"]),
    (modules.Strided, lambda steps: torch.randn(1, 3, steps), 2, ["states"]),
]
PARAMETERS = pytest.mark.parametrize(
    ("make", "example", "axis", "names"), MODULES, ids=[case[0].__name__ for case in MODULES]
)


@PARAMETERS
def test_any_number_of_steps(
    make: type[nn.Module],
    example: Callable[[int], Tensor],
    axis: int,
    names: list[str],
    tmp_path: Path,
) -> None:
    """A file that leaves sequences and steps open gives the module's numbers for each length."""
    torch.manual_seed(0)
    module = make().eval()
    axes = {axis: "steps"} | (
        {1 - axis: "batch"} if axis < 2 and make is not modules.Unbatched else {}
    )
    path = export(
        module,
        (example(7),),
        tmp_path / "model.onnx",
        input_names=["x"],
        output_names=["a", "b"][: len(names)],
        dynamic_axes={"x": axes},
    )
    encoder = load(path)
    for steps in (7, 4, 12):
        compare(encoder, module, example(steps), names)


@PARAMETERS
def test_fixed_sizes(
    make: type[nn.Module],
    example: Callable[[int], Tensor],
    axis: int,
    names: list[str],
    tmp_path: Path,
) -> None:
    """A file of one sequence of seven steps gives its numbers, and is said to be one."""
    torch.manual_seed(0)
    module = make().eval()
    path = export(
        module,
        (example(7),),
        tmp_path / "model.onnx",
        input_names=["x"],
        output_names=["a", "b"][: len(names)],
    )
    compare(load(path), module, example(7), names)
    (note,) = read_onnx(path).notes
    assert "input x has 7 steps in the file" in note


def compare(encoder: object, module: nn.Module, x: Tensor, names: list[str]) -> None:
    with torch.no_grad():
        expected = module(x)
    expected = expected if isinstance(expected, tuple) else (expected,)
    rows = x.squeeze(1) if isinstance(module, modules.StepsFirst) else x.squeeze(0)
    rows = rows.T.contiguous() if isinstance(module, modules.Strided) else rows
    outputs = encode(encoder, rows)  # type: ignore[arg-type]
    for name, own in zip(names, expected, strict=True):
        close(outputs[name], own if isinstance(module, modules.Unbatched) else own[0])


def test_several_inputs(tmp_path: Path) -> None:
    """Ids and features become inputs under their names."""
    module = modules.TwoInputs().eval()
    example = torch.randint(0, 20, (1, 7)), torch.randn(1, 7, 3)
    axes = {name: {0: "batch", 1: "steps"} for name in ("ids", "x")}
    path = export(
        module, example, tmp_path / "model.onnx", input_names=list(axes), dynamic_axes=axes
    )
    encoder = load(path)
    assert list(encoder.config.inputs) == ["ids", "x"]
    ids, x = torch.randint(0, 20, (9,)), torch.randn(9, 3)
    close(encode(encoder, ids, x)["states"], module(ids[None], x[None])[0])


@pytest.mark.parametrize("is_sorted", [True, False])
def test_lengths_are_no_input(is_sorted: bool, tmp_path: Path) -> None:
    """Lengths that packed sequences need, and their order by them, are nothing here."""
    module = modules.Packed(is_sorted).eval()
    axes = {"x": {0: "batch", 1: "steps"}, "lengths": {0: "batch"}}
    path = export(
        module,
        (torch.randn(1, 7, 3), torch.tensor([7])),
        tmp_path / "model.onnx",
        input_names=list(axes),
        output_names=["y", "last"],
        dynamic_axes=axes,
    )
    encoder = load(path)
    assert list(encoder.config.inputs) == ["x"]
    x = torch.randn(9, 3)
    y, last = module(x[None], torch.tensor([9]))
    outputs = encode(encoder, x)
    close(outputs["y"], y[0])
    close(outputs["last"], last[0])
