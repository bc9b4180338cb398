"""A checkpoint is loaded into the module whole, from under prefixes and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bilstm_server.errors import ModelError
from bilstm_server.exporting.owner.weights import load_weights


class Module(nn.Module):
    """With a counter, and a weight under two names."""

    def __init__(self, hidden: int = 3):
        super().__init__()
        self.lstm = nn.LSTM(4, hidden)
        self.norm = nn.BatchNorm1d(3)
        self.fc = nn.Linear(3, 4, bias=False)
        self.tied = nn.Embedding(4, 3)
        self.tied.weight = self.fc.weight


class Wrapped(nn.Module):
    """The module within another, as it is served with what decodes its results."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Module()


State = Mapping[str, Tensor]


def trained() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {name: tensor.clone() for name, tensor in Module().state_dict().items()}


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS: dict[str, tuple[Callable[[State], Any], list[str]]] = {
    "plain": (dict, []),
    "nested": (
        lambda s: {"epoch": 3, "net": {"state": s}, "optimizer": {"m": torch.ones(3)}},
        ["took the tensors under 'net.state'; not taken: optimizer"],
    ),
    "parallel": (
        lambda s: prefixed("module.", s),
        ["took the tensors whose names begin with module."],
    ),
    "compiled": (lambda s: {k.replace("lstm.", "lstm._orig_mod."): v for k, v in s.items()}, []),
    "lightning": (
        lambda s: {"state_dict": prefixed("model.", s) | {"loss.weight": torch.ones(2)}},
        [
            "took the tensors under 'state_dict'",
            "took the tensors whose names begin with model.; not taken: loss.weight",
        ],
    ),
    "without counters": (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, []),
    "without the tied one": (lambda s: {k: v for k, v in s.items() if k != "tied.weight"}, []),
    "in float64": (lambda s: {k: v.double() for k, v in s.items()}, []),
}


@pytest.mark.parametrize("form", FORMS)
def test_loaded(form: str, tmp_path: Path) -> None:
    """Every parameter is that of the checkpoint, and what was not taken is said."""
    save, notes = FORMS[form]
    torch.save(save(trained()), tmp_path / "x.pt")
    module = Module()
    assert load_weights(module, tmp_path / "x.pt", None) == notes
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, trained()[name])


def test_wrapper(tmp_path: Path) -> None:
    """A module that wraps the one that was saved takes its weights, of a .safetensors too."""
    state = {k: v for k, v in trained().items() if k != "tied.weight"}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    module = Wrapped()
    assert load_weights(module, tmp_path / "x.safetensors", None) == []
    assert torch.equal(module.model.fc.weight, trained()["fc.weight"])


def test_weight_norm(tmp_path: Path) -> None:
    """A module that has its weights in pieces takes the pieces."""
    torch.manual_seed(1)
    saved, module = (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))) for _ in range(2)
    )
    torch.save(saved.state_dict(), tmp_path / "x.pt")
    load_weights(module, tmp_path / "x.pt", None)
    assert torch.equal(module(torch.ones(1, 3)), saved(torch.ones(1, 3)))


def without(name: str) -> Callable[[State], Any]:
    return lambda s: {key: tensor for key, tensor in s.items() if key != name}


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "a tensor is missing": (without("lstm.bias_ih_l0"), "lacks lstm.bias_ih_l0 of the module; if"),
    "one too many": (
        lambda s: dict(s) | {"head.weight": torch.ones(2)},
        "holds head.weight, which the module has not; if that is meant, load them in the factory",
    ),
    "one too many under the prefix": (
        lambda s: prefixed("net.", dict(s) | {"head.weight": torch.ones(2)}),
        "holds net.head.weight, which the module has not",
    ),
    "another size": (
        lambda _: Module(hidden=2).state_dict(),
        "lstm.weight_ih_l0 is [8, 4], the module's is [12, 4]; make it with the sizes",
    ),
    "other names": (
        lambda s: {k.replace("lstm", "rnn"): v for k, v in s.items()},
        "lacks lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0 of the module"
        ", and has others: rnn.weight_ih_l0",
    ),
    "two models": (
        lambda s: {"model": dict(s), "average": dict(s)},
        "holds several dictionaries of the module's tensors: model, average; take one with --key",
    ),
    "another model": (
        lambda _: {"model": {"a.weight": torch.ones(2)}},
        "holds no tensor of the module's in any of its dictionaries of tensors (model)",
    ),
    "no tensors": (lambda _: {"epoch": 3}, "holds epoch instead of a state_dict"),
    "a module": (lambda _: nn.Linear(2, 2), "holds a torch.nn.modules.linear.Linear, which is not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    """A checkpoint that is not the module's is refused with the tensor and what is wrong."""
    save, words = REFUSED[case]
    torch.save(save(trained()), tmp_path / "x.pt")
    module = Module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ModelError) as refused:
        load_weights(module, tmp_path / "x.pt", None)
    assert words in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_key(tmp_path: Path) -> None:
    """Of two models the key takes one."""
    ones = {name: torch.ones_like(tensor) for name, tensor in trained().items()}
    torch.save({"model": trained(), "average": ones}, tmp_path / "x.pt")
    module = Module()
    load_weights(module, tmp_path / "x.pt", "average")
    assert bool((module.fc.weight == 1).all())


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(ModelError, match=r"x\.pt: no such file"):
        load_weights(Module(), tmp_path / "x.pt", None)
