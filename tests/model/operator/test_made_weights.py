"""Weights that torch makes of others – weight_norm, spectral_norm, pruning – as hooks and as
parametrizations make them. The judge is nn.LSTM whose weights are made likewise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from bilstm_server.model import BiLSTM
from tests.model.operator.around import AROUND, Tagger
from tests.support.lstms import assert_close, judged

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated"),
]

MADE = ("weight_ih_l0", "weight_hh_l1_reverse")


def each(make: Callable[..., object], **options: Any) -> Callable[[nn.Module], None]:
    """Has `make` put each of these weights in the place of one that it makes."""

    def make_all(lstm: nn.Module) -> None:
        for name in MADE:
            make(lstm, name, **options)

    return make_all


def prune_twice(lstm: nn.Module) -> None:
    for make in (prune.l1_unstructured, prune.random_unstructured):
        each(make, amount=0.3)(lstm)


Make = Callable[[nn.Module], None]
MAKERS: dict[str, Make] = {
    "weight_norm": each(weight_norm),
    "spectral_norm": each(spectral_norm),
    "pruning": each(prune.l1_unstructured, amount=0.4),
    "pruning twice": prune_twice,
    "parametrized weight_norm": each(parametrizations.weight_norm),
    "parametrized spectral_norm": each(parametrizations.spectral_norm),
    "orthogonal": each(parametrizations.orthogonal),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def made(make: Make, seed: int = 0) -> nn.LSTM:
    """The judge, its numbers as they were loaded after the last call."""
    torch.manual_seed(seed)
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True).eval()
    make(lstm)
    lstm.load_state_dict(others(lstm))
    return lstm


def others(lstm: nn.Module) -> dict[str, Tensor]:
    """A state_dict with other numbers, but for masks and for what is not drawn."""
    return {
        name: tensor + 0.3 * torch.randn_like(tensor) if name in parameters(lstm) else tensor
        for name, tensor in lstm.state_dict().items()
    }


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters())


@every_maker
def test_from_torch(make: Make, x: Tensor) -> None:
    """from_torch copies the weights that the module has at this moment, as plain parameters."""
    judge = made(make)
    ours = BiLSTM.from_torch(judge)
    assert_close(ours(x), judge(x), 1e-5)
    assert list(ours.state_dict()) == list(BiLSTM(3, 4, 2).state_dict())


@every_maker
def test_to_torch(make: Make, module: BiLSTM, x: Tensor) -> None:
    """to_torch copies the weights that the module has at this moment, as plain parameters."""
    make(module)
    module.load_state_dict(others(module))
    lstm = module.to_torch()
    assert_close(lstm(x), module(x), 1e-5)
    assert list(lstm.state_dict()) == list(BiLSTM(3, 4, 2).state_dict())


@every_maker
def test_all_weights(make: Make, module: BiLSTM) -> None:
    """all_weights lists the weights as nn.LSTM does."""
    judge = made(make)
    make(module)
    module.load_state_dict(judge.state_dict())
    for lstm in (module, judge):
        lstm(torch.randn(5, 2, 3))
    assert_close(module.all_weights, judge.all_weights, 0)


@every_maker
def test_results_and_gradients(make: Make, module: BiLSTM, x: Tensor) -> None:
    """Results, and the gradients of what weights are made of, are nn.LSTM's: of a call, and of
    `forward_ragged`.
    """
    judge, lengths = made(make), [5, 1, 3]
    make(module)
    module.load_state_dict(judge.state_dict())
    rows = torch.randn(sum(lengths), 3)
    for run, expect in (
        (lambda: module.forward_ragged(rows, lengths), lambda: judged(judge, rows, lengths)),
        (lambda: module(x), lambda: judge(x)),
    ):
        found, expected = run(), expect()
        assert_close(found, expected, 1e-5)
        gradients = [
            torch.autograd.grad(y.square().sum(), list(parameters(lstm).values()))
            for lstm, (y, _) in ((module, found), (judge, expected))
        ]
        assert_close(gradients[0], gradients[1], 1e-4)


@every_maker
@pytest.mark.parametrize("kernel", ["reference", "auto"])
def test_freeze(kernel: str, make: Make, x: Tensor) -> None:
    """freeze packs the weights of its moment, in the type that they then have."""
    judge, ours = made(make), BiLSTM(3, 4, num_layers=2).eval()
    make(ours)
    ours.load_state_dict(judge.state_dict())
    for lstm in (judge, ours):
        lstm.double()
    assert_close(ours.freeze(kernel)(x.double()), judge(x.double()), 1e-10)
    assert ours.is_frozen
    assert_close(ours.forward_ragged(x[:, 0].double(), [5])[0], judge(x[:, 0].double())[0], 1e-10)


@pytest.mark.parametrize("name", [name for name in MAKERS if name.startswith("parametrized")])
def test_copy(name: str, x: Tensor) -> None:
    """A copy of a frozen module is frozen, and follows its own weights."""
    ours = BiLSTM(3, 4, num_layers=2)
    MAKERS[name](ours)
    again = copy.deepcopy(ours.freeze())
    assert again.is_frozen
    assert_close(again(x), ours(x), 0)
    weights = {name: 2 * weight for name, weight in again.named_parameters()}
    expected = functional_call(ours, weights, (x,))
    assert_close(functional_call(again, weights, (x,)), expected, 1e-6)


EXPECTED: dict[str, Callable[[nn.LSTM], nn.Module]] = {
    "alone": lambda lstm: lstm,
    "nested": lambda lstm: nn.Sequential(Tagger(lstm)),
    "ragged": Tagger,
}


@every_maker
@pytest.mark.parametrize("around", AROUND)
def test_functional_call(around: str, make: Make, module: BiLSTM, x: Tensor) -> None:
    """functional_call of a frozen module computes with what it is given for those that weights are
    made of, parameters or buffers, one of them at a time.
    """
    x = x[:, 0]
    kernel = module.layers()[0].kernel if module.is_frozen else None
    judge = nn.LSTM(3, 4, num_layers=2, bidirectional=True).eval()
    for lstm in (module, judge):
        make(lstm)
    outer, expected = AROUND[around](module), EXPECTED[around](judge)
    expected.load_state_dict(outer.state_dict())
    if kernel:
        module.freeze(kernel)
    before = outer(x)
    for name, tensor in outer.state_dict().items():
        if not any(weight in name for weight in MADE):
            continue
        given = {name: tensor + 0.5}
        found = functional_call(outer, given, (x,))
        assert_close(found, functional_call(expected, given, (x,)), 1e-5)
    assert_close(outer(x), before, 1e-6)
