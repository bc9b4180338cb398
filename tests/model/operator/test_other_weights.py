"""Parameters put in the place of others, and copies of a module, frozen or not: results follow the
weights. The judge is nn.LSTM with the same weights.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize, grad, stack_module_state, vmap
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from bilstm_server.model import BiLSTM, PlainConfig, RaggedBatch, SequenceEncoder
from bilstm_server.model.kernels import (
    KernelUnavailable,
    choose_kernel,
)
from tests.model.operator.around import AROUND
from tests.support.lstms import assert_close

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # vmap, of any module
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is not supported"),
]

CPU = torch.device("cpu")


def encoder(kernel: str) -> SequenceEncoder:
    sizes = {"input_size": 3, "hidden_size": 4, "head": {"num_classes": 2}}
    torch.manual_seed(0)
    made = SequenceEncoder(PlainConfig.model_validate(sizes).graph())
    return made.freeze(choose_kernel(kernel, CPU).kernel)


# -- other parameters ----------------------------------------------------------------------------


def other_weights() -> tuple[nn.LSTM, dict[str, Tensor]]:
    torch.manual_seed(7)
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True).eval()
    return lstm, dict(lstm.named_parameters())


def test_functional_call(module: BiLSTM, x: Tensor) -> None:
    """functional_call computes with the weights that it is given, and leaves the module's."""
    before = module(x)
    other, weights = other_weights()
    assert_close(functional_call(module, weights, (x,)), other(x), 1e-5)
    assert_close(module(x), before, 0)


@pytest.mark.parametrize("around", AROUND)
def test_functional_call_of_another_module(around: str, module: BiLSTM, x: Tensor) -> None:
    """functional_call of a module that it is a part of computes with all that it is given."""
    outer, x = AROUND[around](module), x[:, 0]
    given = {name: torch.randn_like(weight) for name, weight in outer.named_parameters()}
    found = functional_call(outer, given, (x,))
    outer.load_state_dict(given)
    assert_close(found, outer(x), 1e-6)


def test_some_other_weights(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """functional_call computes right also where it is given one weight of all."""
    one = {"bias_hh_l1_reverse": torch.ones(16)}
    assert_close(functional_call(module, one, (x,)), functional_call(judge, one, (x,)), 1e-5)


def test_gradient_of_given_weights(module: BiLSTM, x: Tensor) -> None:
    """A gradient reaches the weights that functional_call is given."""
    other, weights = other_weights()
    expected = torch.autograd.grad(other(x)[0].square().sum(), list(weights.values()))
    found = grad(lambda own: functional_call(module, own, (x,))[0].square().sum())(weights)
    assert_close(tuple(found.values()), expected, 1e-4)


def test_ensemble(module: BiLSTM, x: Tensor) -> None:
    """Several modules' weights at once."""
    others = [other_weights()[0], module.to_torch()]
    stacked, _ = stack_module_state(others)
    y = vmap(lambda own: functional_call(module, own, (x,))[0])(stacked)
    assert_close(y, torch.stack([other(x)[0] for other in others]), 1e-5)


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize("name", ["weight_ih_l0", "bias_hh_l1_reverse"])
def test_parametrized(name: str, module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """A parametrization counts, and its removal."""
    before = module(x)
    parametrize.register_parametrization(module, name, Double())
    parametrize.register_parametrization(judge, name, Double())
    doubled = {name: getattr(judge, name)}
    plain = BiLSTM(3, 4, num_layers=2).eval()
    state = {key.removeprefix("parametrizations."): t for key, t in judge.state_dict().items()}
    state[name] = doubled[name]
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    assert_close(module(x), plain(x), 1e-5)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    assert_close(module(x), before, 1e-6)


def test_assigned_parameter(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """A parameter that is put in another's place thaws."""
    lstm: Any
    for lstm in (module, judge):
        lstm.weight_hh_l0 = nn.Parameter(2 * lstm.weight_hh_l0.detach())
    assert_close(module(x), judge(x), 1e-5)
    assert not module.is_frozen


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_other_head(kernel: str) -> None:
    """A frozen encoder's head follows functional_call too."""
    try:
        frozen = encoder(kernel)
    except KernelUnavailable as error:
        pytest.skip(str(error))
    arguments = (torch.randn(5, 3), RaggedBatch([5]), None, ["logits"])
    weights = {"head.weight": torch.randn(2, 8)}
    expected = copy.deepcopy(frozen)
    expected.load_state_dict(weights, strict=False)
    found = functional_call(frozen, weights, arguments)
    assert_close(found["logits"], expected(*arguments)["logits"], 1e-5)


# -- copies --------------------------------------------------------------------------------------


def saved(module: nn.Module, **options: Any) -> Any:
    """By `torch.save`, and loaded again."""
    buffer = io.BytesIO()
    torch.save(module, buffer, **options)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda own: pickle.loads(pickle.dumps(own)),
        saved,
        # It reads the numbers when all objects are made.
        lambda own: saved(own, _use_new_zipfile_serialization=False),
        lambda own: copy.deepcopy(copy.deepcopy(own)),
    ],
    ids=["deepcopy", "pickle", "save", "save, before torch 1.6", "a copy's copy"],
)
@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_copies(copied: Callable[[Any], Any], kernel: str) -> None:
    """Copies and pickles of a frozen encoder are frozen, and give the same numbers."""
    try:
        frozen = encoder(kernel)
    except KernelUnavailable as error:
        pytest.skip(str(error))
    again = copied(frozen)
    assert again.lstms[0].is_frozen
    assert [layer.kernel for layer in again.lstms[0].layers()] == [kernel]
    arguments = (torch.randn(5, 3), RaggedBatch([5]), None, ["logits", "states"])
    assert_close(again(*arguments), frozen(*arguments), 0)


def test_copy_that_is_watched_first(module: BiLSTM, x: Tensor) -> None:
    """Of a copy whose first call torch watches, it sees every operation; later ones are fast."""
    expected, _ = module(x)
    kernels = [layer.kernel for layer in module.layers()]
    again = copy.deepcopy(module)
    assert_close(functionalize(again)(x)[0], expected, 1e-5)
    with FlopCounterMode(display=False) as mode:
        assert_close(again(x)[0], expected, 1e-5)
    assert mode.get_total_flops() > 0
    assert [layer.kernel for layer in again.layers()] == kernels


def test_copy_that_runs_in_inference_mode_first(module: BiLSTM, x: Tensor) -> None:
    """What a copy packs there serves for gradients later."""
    again = copy.deepcopy(module)
    with torch.inference_mode():
        again(x)
    expected, actual = (
        torch.autograd.grad(own(steps)[0].square().sum(), steps)[0]
        for own in (module, again)
        for steps in [x.clone().requires_grad_()]
    )
    assert_close(actual, expected, 1e-5)
