"""Each direction of the gpu kernel over rows of its own, and a layer among others."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels.interface import (
    DirectionInput,
)
from bilstm_server.model.kernels.ragged import RaggedBatch
from bilstm_server.model.kernels.reference import ReferenceLayer
from tests.support.lstms import assert_within

pytest.importorskip("triton", reason="needs Triton")

from bilstm_server.model.kernels.gpu.packing import gate_order
from bilstm_server.model.kernels.gpu.plans import (
    Plan,
)
from tests.model.kernels.gpu.interpreter.layers import (
    TOLERANCES,
    OnePlan,
    alone,
    double,
    draw_directions,
    draw_input,
    every_dtype,
    shared,
)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Triton compiles here: test_device.py"
)


# -- each direction over rows of its own ---------------------------------------------------------


@pytest.mark.parametrize("plan", [alone(20), shared(20, 32, False)], ids=str)
def test_states_that_lie_otherwise(plan: Plan) -> None:
    """Initial states are read as they are shaped, however they lie in memory."""
    torch.manual_seed(0)
    (direction, _) = draw_directions(20, torch.float32)
    layer = OnePlan(plan)([direction])
    x, batch = torch.randn(4, 3), RaggedBatch([1, 3])
    h_0, c_0 = torch.randn(2, 1, 2, 20)
    h_across, c_across = (state.mT.contiguous().mT for state in (h_0, c_0))
    assert not c_across.is_contiguous()
    for one, other in zip(
        layer(x, batch, h_across, c_across), layer(x, batch, h_0, c_0), strict=True
    ):
        assert torch.equal(one, other)
    across, plain = (
        layer.per_direction([DirectionInput(x, batch, h[0], c[0])])[0]
        for h, c in ((h_across, c_across), (h_0, c_0))
    )
    assert across is not None
    assert plain is not None
    assert all(map(torch.equal, across, plain))


@every_dtype
@pytest.mark.parametrize("plan", [alone(20), shared(20, 32, False)], ids=str)
def test_per_direction(plan: Plan, dtype: torch.dtype) -> None:
    """Directions run over batches of their own, or only one does; states are float32."""
    torch.manual_seed(0)
    directions = draw_directions(20, dtype)
    layer = OnePlan(plan)(directions)
    exact = ReferenceLayer([d.map(Tensor.double) for d in directions])
    forward, backward = draw_input([2, 5, 1], 20, dtype), draw_input([3, 3] * 9, 20, dtype)
    for parts in ([forward, backward], [forward, None], [None, backward], [None, None]):
        expected = exact.per_direction([double(part) for part in parts])
        for result, right in zip(layer.per_direction(parts), expected, strict=True):
            assert (result is None) == (right is None)
            if result and right:
                assert [part.dtype for part in result] == [dtype, torch.float32, torch.float32]
                for one, other in zip(result, right, strict=True):
                    assert_within(TOLERANCES[dtype], one, other)


@pytest.mark.parametrize("plan", [alone(20), shared(20, 32, False)], ids=str)
def test_continued(plan: Plan) -> None:
    """A sequence in two parts has the results that it has whole."""
    torch.manual_seed(0)
    layer = OnePlan(plan)(draw_directions(20, torch.float32))
    whole = draw_input([7], 20, torch.float32)
    expected, _ = layer.per_direction([whole, None])
    first = DirectionInput(whole.x[:4], RaggedBatch([4]), whole.h_0, whole.c_0)
    begun, _ = layer.per_direction([first, None])
    assert begun is not None
    ended, _ = layer.per_direction(
        [DirectionInput(whole.x[4:], RaggedBatch([3]), *begun[1:]), None]
    )
    assert expected is not None
    assert ended is not None
    assert_within(1e-6, torch.cat([begun[0], ended[0]]), expected[0])
    assert_within(1e-6, ended[1], expected[1])
    assert_within(1e-6, ended[2], expected[2])


# -- a layer among others ------------------------------------------------------------------------


def test_gradients() -> None:
    """Where a gradient is to reach the input, it is the reference's."""
    directions = draw_directions(6, torch.float32)
    x, batch = torch.randn(3, 3, requires_grad=True), RaggedBatch([2, 1])
    states = torch.zeros(2, 2, 6), torch.zeros(2, 2, 6)
    y, _, _ = OnePlan(alone(6))(directions)(x, batch, *states)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    y, _, _ = ReferenceLayer(directions)(x, batch, *states)
    assert torch.equal(gradient, torch.autograd.grad(y.sum(), x)[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
def test_copies(copied: Callable[[BiLSTM], BiLSTM]) -> None:
    """A copy is frozen for the machine it finds: here the reference's, with the same weights."""
    lstm = BiLSTM(3, 6).requires_grad_(False).freeze(OnePlan(alone(6)))
    x, lengths = torch.randn(3, 3), [2, 1]
    twin = copied(lstm)
    assert (lstm.layers()[0].kernel, twin.layers()[0].kernel) == ("gpu", "reference")
    (y, states), (other_y, other_states) = (own.forward_ragged(x, lengths) for own in (lstm, twin))
    for one, other in zip((y, *states), (other_y, *other_states), strict=True):
        assert_within(1e-6, one, other)


@given(st.integers(1, 100), st.sampled_from([16, 32, 64, 128]))
def test_gate_order(hidden: int, units: int) -> None:
    """Every row of nn.LSTM's is there once, a slice's within the slice; the rest is padding."""
    order = gate_order(hidden, units)
    assert sorted(row for row in order.tolist() if row < 4 * hidden) == list(range(4 * hidden))
    for number, part in enumerate(torch.split(order, 4 * units)):
        own = part[part < 4 * hidden] % hidden
        assert own.min() == number * units
        assert own.max() == min((number + 1) * units, hidden) - 1
