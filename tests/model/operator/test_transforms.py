"""`BiLSTM` under what torch does to modules and their calls, traces, transforms, modes and unusual
tensors: right, or refused in words. The judge is nn.LSTM with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.func import functionalize, grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from bilstm_server.model import BiLSTM, RaggedBatch
from bilstm_server.model.kernels import (
    DirectionInput,
    Kernel,
    to_device,
)
from tests.model.operator.around import AROUND, Ragged
from tests.model.operator.drawing import every_kernel
from tests.support.lstms import assert_close

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # vmap, of any module
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is not supported"),
]


# -- refused in words ----------------------------------------------------------------------------


def trace(module: Any, example: Tensor) -> Any:
    return torch.jit.trace(module, (example,))  # type: ignore[no-untyped-call]


def script(module: Any, _: Tensor) -> Any:
    return torch.jit.script(module)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("make", [trace, script])
def test_torchscript(make: Callable[..., Any], around: str, module: BiLSTM, x: Tensor) -> None:
    """TorchScript would keep one number of steps or can't compile it: both say what to do, alone
    and within another module.
    """
    outer, steps = AROUND[around](module), x if around != "ragged" else x[:, 0]
    with pytest.raises(RuntimeError, match=r"to_torch\(\) gives an nn.LSTM that TorchScript takes"):
        make(outer, steps)


def test_trace_of_a_function(module: BiLSTM) -> None:
    """A trace of a function that calls `forward_ragged` is refused, with what to do."""
    with pytest.raises(RuntimeError, match=r"would keep this call's lengths; .* to_torch\(\)"):
        trace(lambda x: module.forward_ragged(x, [3, 2])[0], torch.ones(5, 3))


def test_lengths_without_numbers(module: BiLSTM) -> None:
    """Lengths as a tensor whose numbers can't be read are refused, with what to do: under vmap and
    torch.export.
    """
    x, lengths = torch.randn(5, 3), torch.tensor([3, 2])
    with pytest.raises(ValueError, match=r"under torch\.vmap, .* give a list"):
        vmap(module.forward_ragged)(x.expand(2, 5, 3), lengths.expand(2, 2))
    ragged = Ragged(module)
    with pytest.raises(ValueError, match=r"torch.export and the like .* give a list"):
        torch.export.export(ragged, (x, lengths), strict=False)


def test_export_of_any_length(module: BiLSTM, x: Tensor) -> None:
    """torch.export with a number of steps that is not fixed is refused."""
    steps = torch.export.Dim("steps")
    with pytest.raises(ValueError, match=r"lengths must be known: .* leave them out"):
        torch.export.export(module, (x,), dynamic_shapes=({0: steps},), strict=False)


def test_symbolic_trace(module: BiLSTM) -> None:
    """fx refuses its forward, whose branches depend on the input."""
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(module)


def test_meta_input(module: BiLSTM, x: Tensor) -> None:
    """A tensor without numbers is refused as one on another device."""
    with pytest.raises(ValueError, match="x must be on cpu, got meta"):
        module(x.to("meta"))


def test_copy_while_a_cuda_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths are not copied into a CUDA graph: a replay would read memory that was freed."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="run it once before"):
        to_device(np.ones(2), torch.device("cuda"))


# -- right ---------------------------------------------------------------------------------------


def test_export(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """What torch.export records computes other inputs of this shape, and takes no other shape."""
    exported = torch.export.export(module, (x,), strict=False).module()
    assert_close(exported(2 * x), judge(2 * x), 1e-5)
    with pytest.raises((RuntimeError, AssertionError)):
        exported(torch.cat([x, x]))


def test_make_fx(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """A graph of every operation computes other inputs of this shape."""
    graph = make_fx(lambda x: module(x)[0])(x)
    assert_close(graph(2 * x), judge(2 * x)[0], 1e-5)


def test_vmap(module: BiLSTM, judge: nn.LSTM) -> None:
    """torch.vmap over batches gives what each gives alone."""
    xs = torch.randn(6, 5, 2, 3)
    expected = torch.stack([judge(x)[0] for x in xs])
    assert_close(vmap(lambda x: module(x)[0])(xs), expected, 1e-5)


def test_functionalize(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """torch.func.functionalize leaves the results as they are."""
    assert_close(functionalize(module)(x)[0], judge(x)[0], 1e-5)


def test_gradients(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """torch.func's gradients, in reverse and in forward mode, are nn.LSTM's."""
    x, judge = x.double(), judge.double()

    def loss(lstm: nn.Module) -> Callable[[Tensor], Tensor]:
        dtype = next(lstm.parameters()).dtype
        return lambda x: lstm(x.to(dtype))[0].square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(judge)(leaf), leaf)
    assert_close(grad(loss(module))(x), expected, 1e-5)
    tangent = torch.ones_like(x)
    assert_close(jvp(loss(module), (x,), (tangent,))[1].double(), expected.sum(), 1e-4)


def test_mode(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """A mode that counts operations sees them all."""
    with FlopCounterMode(display=False) as mode:
        assert_close(module(x), judge(x), 1e-5)
    assert mode.get_total_flops() == 12160


def test_fake_tensors(module: BiLSTM) -> None:
    """Fake tensors have the result's shape, and are not read or written at their addresses."""
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        y, (h_n, c_n) = module(torch.randn(5, 2, 3))
    assert isinstance(y, torch._subclasses.FakeTensor)
    assert (y.shape, h_n.shape, c_n.shape) == ((5, 2, 8), (4, 2, 4), (4, 2, 4))


def test_frozen_fake_weights() -> None:
    """Weights that are fake are packed by no kernel."""
    with torch._subclasses.FakeTensorMode():
        lstm = BiLSTM(3, 4).freeze()
        assert lstm(torch.randn(5, 2, 3))[0].shape == (5, 2, 8)
        assert lstm.layers()[0].kernel == "reference"


def test_subclass(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """A subclass that has its numbers elsewhere."""
    two: Any = TwoTensor
    y: Any = module(two(x, 2 * x))[0]
    assert_close(y.a, judge(x)[0], 1e-5)
    assert_close(y.b, judge(2 * x)[0], 1e-5)


def test_negated_views(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """Views that negate, as imaginary parts of conjugates are: as input and as states."""
    x = x[:, 0]
    hx = (torch.randn(4, 1, 4), torch.randn(4, 1, 4))
    views = [torch.complex(-part, -part).conj().imag for part in (x, *hx)]
    assert all(view.is_neg() for view in views)
    negated, h, c = (torch._neg_view(-view.resolve_neg()) for view in views)
    y, states = module.forward_ragged(negated, [5], (h, c))
    expected, expected_states = judge(x.unsqueeze(1), hx)
    assert_close((y, states), (expected.squeeze(1), expected_states), 1e-5)


@every_kernel
def test_trace_of_a_product(kernel: Kernel) -> None:
    """A trace of a kernel's product has its operations, and not memory that it writes."""
    weight, bias = torch.randn(5, 3), torch.randn(5)
    product = kernel.linear(weight, bias)
    traced = trace(lambda x: product(x), torch.ones(2, 3))
    x = torch.randn(4, 3)
    assert_close(traced(x), nn.functional.linear(x, weight, bias), 1e-5)


def test_parts_under_vmap(module: BiLSTM) -> None:
    """Slices of long sequences and live blocks too are computed by torch's operations there."""
    batch = RaggedBatch([5])
    h, c = torch.zeros(1, 4), torch.zeros(1, 4)

    def run(x: Tensor) -> Tensor:
        forward, backward = module.layers()[0].per_direction(
            [DirectionInput(x, batch, h, c), DirectionInput(x, batch, h, c)]
        )
        assert forward is not None
        assert backward is not None
        return torch.cat([forward[0], backward[0]], dim=1)

    xs = torch.randn(6, 5, 3)
    assert_close(vmap(run)(xs), torch.stack([run(x) for x in xs]), 1e-5)
