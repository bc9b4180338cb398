"""The gpu kernel on a GPU: every plan, nn.LSTM as the judge, and what a server of it must keep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels import choose_kernel
from bilstm_server.model.kernels.interface import DirectionInput
from bilstm_server.model.kernels.ragged import RaggedBatch
from tests.support.lstms import assert_within, draw_states, examples, judged, pair, seeds

triton = pytest.importorskip("triton", reason="needs Triton")

from bilstm_server.model.kernels.gpu.kernel import GpuKernel, load  # noqa: E402
from bilstm_server.model.kernels.gpu.layer import precision  # noqa: E402
from bilstm_server.model.kernels.gpu.plans import Cost, Shape  # noqa: E402
from bilstm_server.model.kernels.gpu.tuning import Tuner  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda")
TOLERANCES = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}

every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
sizes = pytest.mark.parametrize("hidden", [20, 64, 100, 128, 256, 512, 1024])


@pytest.fixture(scope="module")
def kernel() -> GpuKernel:
    assert os.environ.get("TRITON_INTERPRET") != "1"
    return load(GPU)


@pytest.fixture(params=[False, True], ids=["float32", "tf32"])
def allow_tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32 = False


def assert_every_plan_runs(kernel: GpuKernel, shape: Shape) -> None:
    found = list(Tuner(shape, kernel.processor, GPU).trials())
    assert found
    dropped = [f"{plan}: {why}" for plan, why in found if not isinstance(why, Cost)]
    assert not dropped


@sizes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_plan_of_halves(kernel: GpuKernel, hidden: int, dtype: torch.dtype) -> None:
    """Each one fits, is right, has the same bits twice, and does not wait for ever."""
    assert_every_plan_runs(kernel, Shape(hidden, 2, dtype, precision(dtype)))


@sizes
def test_every_plan_of_float32(kernel: GpuKernel, hidden: int, allow_tf32: bool) -> None:
    """Every plan of float32 gives nn.LSTM's results, with and without TF32."""
    assert_every_plan_runs(kernel, Shape(hidden, 2, torch.float32, precision(torch.float32)))


def frozen(exact: Any, dtype: torch.dtype) -> BiLSTM:
    lstm = BiLSTM.from_torch(exact).to(GPU, dtype).freeze()
    assert {layer.kernel for layer in lstm.layers()} == {"gpu"}
    return lstm


@every_dtype
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=300),
    st.sampled_from([20, 64, 256]),
    st.booleans(),
    st.booleans(),
    seeds,
)
@examples(20)
def test_any_batch(
    dtype: torch.dtype,
    lengths: list[int],
    hidden: int,
    bidirectional: bool,
    stateful: bool,
    seed: int,
) -> None:
    """Ragged batches, whatever plan is chosen for them, give nn.LSTM's results."""
    architecture = {"hidden_size": hidden, "num_layers": 2, "bidirectional": bidirectional}
    exact, _ = pair(torch.float64, seed, input_size=11, **architecture)
    exact = exact.to(dtype).double()
    lstm = frozen(exact, dtype)
    x = torch.randn(sum(lengths), 11, dtype=dtype)
    hx = None
    if stateful:
        h_0, c_0 = draw_states(BiLSTM.from_torch(exact), len(lengths))
        hx = h_0.to(dtype), c_0.to(dtype)
    with torch.no_grad():
        y, states = lstm.forward_ragged(
            x.to(GPU), lengths, None if hx is None else (hx[0].to(GPU), hx[1].to(GPU))
        )
        wide = None if hx is None else (hx[0].double(), hx[1].double())
        judged_y, judged_states = judged(exact, x.double(), lengths, wide)
    for actual, expected in zip((y, *states), (judged_y, *judged_states), strict=True):
        assert_within(TOLERANCES[dtype], actual.cpu(), expected)


@every_dtype
@pytest.mark.parametrize("hidden", [64, 256])
def test_long(dtype: torch.dtype, hidden: int) -> None:
    """Tens of thousands of steps, in which programs wait for each other as often, give the same
    bits each time, and do not run away from nn.LSTM's."""
    exact, _ = pair(torch.float64, input_size=5, hidden_size=hidden)
    exact = exact.to(dtype).double()
    lstm = frozen(exact, dtype)
    lengths = [20_000, 19_999, 7]
    x = torch.randn(sum(lengths), 5, dtype=dtype)
    with torch.no_grad():
        y, _ = lstm.forward_ragged(x.to(GPU), lengths)
        again, _ = lstm.forward_ragged(x.to(GPU), lengths)
        expected, _ = judged(exact.to(GPU), x.to(GPU).double(), lengths)
    assert torch.equal(y, again)
    assert_within(TOLERANCES[dtype], y, expected)


@every_dtype
def test_nothing_is_compiled_later(dtype: torch.dtype) -> None:
    """Once a model is frozen, no batch waits for the compiler."""
    _, lstm = pair(torch.float32, input_size=5, hidden_size=40)
    layer = lstm.to(GPU, dtype).freeze().layers()[0]
    compiled = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **found: compiled.append(found["repr"])
    try:
        for sequences in (1, 2, 3, 15, 16, 17, 32, 100, 333, 1000):
            batch = RaggedBatch([1 + n % 5 for n in range(sequences)], GPU)
            x = torch.randn(batch.steps, 5, device=GPU).to(dtype)
            h, c = torch.randn(2, 2, sequences, 40, device=GPU)
            layer(x, batch, h.to(dtype), c.to(dtype))
            part = DirectionInput(x, batch, h[0], c[0])
            for parts in ([part, part], [part, None], [None, part]):
                layer.per_direction(parts)
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None
    assert not compiled


def test_projection() -> None:
    """What it has no plan for, the reference runs, and says so."""
    _, lstm = pair(torch.float32, hidden_size=8, proj_size=4)
    (layer,) = lstm.to(GPU).freeze().layers()
    assert layer.kernel == "reference"
    assert layer.fallback_reason == "the gpu kernel has no projection (proj_size)"


def test_chosen() -> None:
    """`auto` is the gpu kernel."""
    choice = choose_kernel("auto", GPU)
    assert (choice.name, choice.fallback_reason) == ("gpu", None)
