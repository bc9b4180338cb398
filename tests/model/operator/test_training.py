"""`BiLSTM` trains as nn.LSTM does, with dropout too, and freezing fixes its weights until it trains
again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bilstm_server.model.bilstm import BiLSTM, States
from bilstm_server.model.kernels import (
    Kernel,
)
from tests.model.operator.drawing import (
    FORMS,
    LENGTHS,
    TOLERANCE,
    draw_input,
    every_kernel,
    gradients,
    named_parameters,
)
from tests.support.lstms import (
    assert_close,
    judged,
    pair,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# -- training ------------------------------------------------------------------------------------


def test_dropout_lies_between_layers() -> None:
    """In training, dropout acts on what the second layer reads, and on no layer's results."""
    _, ours = pair(num_layers=2, dropout=0.5)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    y, (h_n, c_n) = ours.forward_ragged(x, LENGTHS)
    _, (calm_h, calm_c) = ours.eval().forward_ragged(x, LENGTHS)
    assert_close((h_n[:2], c_n[:2]), (calm_h[:2], calm_c[:2]), 0)
    assert not torch.isclose(h_n[2:], calm_h[2:]).any()
    last = torch.tensor(LENGTHS).cumsum(0) - 1
    assert_close(y[last, :4], h_n[2], 0)
    assert_close(y[last + 1 - torch.tensor(LENGTHS), 4:], h_n[3], 0)
    assert y.count_nonzero() == y.numel()


@pytest.mark.parametrize("form", FORMS)
def test_dropout_of_everything(form: str) -> None:
    """dropout=1 gives what nn.LSTM gives with it."""
    judge, ours = pair(num_layers=3, dropout=1.0, batch_first=form == "batch first")
    x = draw_input(form, LENGTHS, 3)
    (actual, states), (expected, expected_states) = ours(x), judge(x)
    assert_close(states, expected_states, 1e-10)
    if isinstance(x, PackedSequence):
        actual, expected = actual.data, expected.data
    assert_close(actual, expected, 1e-10)
    assert not torch.allclose(ours.eval()(x)[1][0], states[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_dropout_mask(seed: int) -> None:
    """The same seed drops the same numbers of one sequence as in nn.LSTM."""
    judge, ours = pair(num_layers=3, dropout=0.4)
    x = torch.randn(9, 3, dtype=torch.float64)
    torch.manual_seed(seed)
    expected = judge(x)
    torch.manual_seed(seed)
    assert_close(ours(x), expected, 1e-10)
    assert not torch.allclose(ours(x)[0], expected[0])


def test_dropout_in_eval_mode() -> None:
    """Eval mode ignores dropout."""
    judge, ours = pair(num_layers=2)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    ours.dropout = 0.9
    assert_close(ours.eval().forward_ragged(x, LENGTHS), judged(judge, x, LENGTHS), 1e-10)


def test_training() -> None:
    """SGD decreases a loss, and the parameters become those of nn.LSTM trained likewise."""
    judge, ours = pair(num_layers=2, proj_size=2)
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    target = torch.randn(sum(LENGTHS), 4, dtype=torch.float64).sigmoid() - 0.5
    runs: list[tuple[nn.Module, Callable[[], tuple[Tensor, States]]]] = [
        (judge, lambda: judged(judge, x, LENGTHS)),
        (ours, lambda: ours.forward_ragged(x, LENGTHS)),
    ]
    start = ours.get_parameter("weight_hr_l0").detach().clone()
    for module, run in runs:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.5)
        losses = []
        for _ in range(6):
            loss = nn.functional.mse_loss(run()[0], target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        assert losses == sorted(losses, reverse=True)
    assert_close(dict(ours.state_dict()), dict(judge.state_dict()), 1e-10)
    assert not torch.isclose(ours.get_parameter("weight_hr_l0"), start).any()


# -- freezing ------------------------------------------------------------------------------------


@every_kernel
def test_freeze_fixes(kernel: Kernel) -> None:
    """freeze() returns the module itself, in eval mode; no gradient reaches its weights until it
    trains again."""
    _, ours = pair(num_layers=2)
    assert ours.freeze(kernel) is ours
    assert not ours.training
    assert not ours.forward_ragged(torch.ones(2, 3).double(), [2])[0].requires_grad
    assert ours.train().forward_ragged(torch.ones(2, 3).double(), [2])[0].requires_grad


@every_kernel
def test_freeze_in_inference_mode(kernel: Kernel) -> None:
    """Frozen in inference mode, it still takes part in autograd outside of it, and trains again."""
    _, ours = pair(num_layers=2, bias=False)
    with torch.inference_mode():
        ours.freeze(kernel)
    x = torch.ones(2, 3, dtype=torch.float64).requires_grad_()
    frozen = gradients(ours.forward_ragged(x, [2]), [x])
    _, parameters = named_parameters(ours.train())
    trained = gradients(ours.forward_ragged(x, [2]), [x, *parameters])
    assert_close(frozen, trained[:1], 1e-10)


def thaw_by_train(ours: BiLSTM, judge: nn.LSTM) -> None:
    nn.Sequential(ours).train()
    with torch.no_grad():
        for own, other in zip(ours.parameters(), judge.parameters(), strict=True):
            own.copy_(other)


def thaw_by_double(ours: BiLSTM, judge: nn.LSTM) -> None:
    with torch.no_grad():
        for own, other in zip(ours.parameters(), judge.parameters(), strict=True):
            other.copy_(own)
    nn.Sequential(ours).double()
    judge.double()


def thaw_by_loading(ours: BiLSTM, judge: nn.LSTM) -> None:
    outer = {f"0.{name}": weight for name, weight in judge.state_dict().items()}
    nn.Sequential(ours).load_state_dict(outer)


@every_kernel
@pytest.mark.parametrize("thaw", [thaw_by_train, thaw_by_double, thaw_by_loading])
def test_thaw(thaw: Callable[[BiLSTM, nn.LSTM], None], kernel: Kernel) -> None:
    """train(), double() and load_state_dict, of a parent too, thaw: results follow the weights."""
    _, ours = pair(torch.float32, seed=1, num_layers=2)
    judge, _ = pair(torch.float32, seed=2, num_layers=2)
    x = torch.randn(sum(LENGTHS), 3)
    before = ours.freeze(kernel).forward_ragged(x, LENGTHS)
    assert not torch.allclose(before[0], judged(judge, x, LENGTHS)[0])
    thaw(ours, judge)
    dtype = judge.weight_ih_l0.dtype
    x = x.to(dtype)
    assert_close(
        ours.eval().forward_ragged(x, LENGTHS), judged(judge, x, LENGTHS), TOLERANCE[dtype]
    )
