"""Examples in files are the arguments of `forward`, by name or in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilstm_server.errors import ModelError
from bilstm_server.exporting.owner.examples import read_call

IDS = np.array([[3, 1, 2]], np.int32)
FLOATS = np.array([[[0.5], [1.5], [2.5]]])
MASK = np.ones((1, 3), bool)


class Module(nn.Module):
    """Takes ids, floats, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def forward(self, ids: Tensor, features: Tensor, mask: Tensor | None = None) -> Any:
        return self.fc(features), ids, mask


class Batch(Module):
    """Takes all in one dictionary."""

    def forward(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
        return self.fc(batch["features"])


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "x.npz", **arrays)
    return path / "x.npz"


def pt(path: Path, content: Any) -> Path:
    torch.save(content, path / "x.pt")
    return path / "x.pt"


def npy(path: Path, array: Any) -> Path:
    np.save(path / "x.npy", array)
    return path / "x.npy"


T = torch.from_numpy
BOTH = {"ids": T(IDS).long(), "features": T(FLOATS).float()}

READ: dict[str, tuple[Callable[[Path], Path], tuple[Any, ...], dict[str, Any]]] = {
    "by name": (lambda p: npz(p, features=FLOATS, ids=IDS), (), BOTH),
    "in order": (lambda p: npz(p, arg1=FLOATS, arg0=IDS), tuple(BOTH.values()), {}),
    "as numpy numbers them": (lambda p: npz(p, arr_0=IDS), (BOTH["ids"],), {}),
    "both": (
        lambda p: npz(p, arg0=IDS, features=FLOATS, mask=MASK),
        (BOTH["ids"],),
        {"features": BOTH["features"], "mask": T(MASK)},
    ),
    "one array": (lambda p: npy(p, FLOATS), (BOTH["features"],), {}),
    "a tensor": (lambda p: pt(p, T(IDS)), (T(IDS),), {}),
    "a tuple": (lambda p: pt(p, tuple(BOTH.values())), tuple(BOTH.values()), {}),
    "a dictionary": (lambda p: pt(p, BOTH), (), BOTH),
}


def assert_equal(given: Any, expected: Any) -> None:
    assert type(given) is type(expected)
    if isinstance(given, Tensor):
        assert given.dtype == expected.dtype
        assert torch.equal(given, expected)
    elif isinstance(given, dict):
        assert given.keys() == expected.keys()
        for key in given:
            assert_equal(given[key], expected[key])
    else:
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("form", READ)
def test_read(form: str, tmp_path: Path) -> None:
    """Every form gives the arguments, in the types that modules take."""
    write, args, kwargs = READ[form]
    assert_equal(read_call(write(tmp_path), Module()), (args, kwargs))


def test_one_dictionary(tmp_path: Path) -> None:
    """A dictionary whose names are no arguments is the only argument."""
    assert_equal(read_call(npz(tmp_path, ids=IDS, features=FLOATS), Batch()), ((BOTH,), {}))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no argument": (
        lambda p: npz(p, ids=IDS, feature=FLOATS),
        "Module.forward has no argument 'feature'; it has ids, features, mask, and they may be",
    ),
    "a gap": (lambda p: npz(p, arg0=IDS, arg2=MASK), "expected arg0, arg1, … without a gap"),
    "text": (lambda p: npz(p, ids=np.array(["a"])), "ids is of <U1; expected floats, integers"),
    "objects": (lambda p: npz(p, ids=np.array([{}])), "x.npz: is no readable .npz of numbers"),
    "a module": (lambda p: pt(p, nn.Linear(1, 1)), "x.pt: is no readable .pt of tensors; save"),
    "nothing": (lambda p: p / "y.npz", "y.npz: no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    """What can't be read, or is no argument, is refused in a line."""
    write, words = REFUSED[case]
    with pytest.raises(ModelError) as refused:
        read_call(write(tmp_path), Module())
    assert words in str(refused.value)
