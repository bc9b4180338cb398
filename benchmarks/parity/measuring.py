"""One case on one kernel: the largest differences from nn.LSTM, and the time beside its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.parity.cases import Call, Drawn, Results, prepare, run
from bilstm_server.model import BiLSTM
from bilstm_server.model.kernels import Choice

WARM_UPS = 2


class Promise(NamedTuple):
    """How far from nn.LSTM results and gradients may be, as the three measures below have it."""

    results: float
    gradients: float


PROMISES = {
    torch.float64: Promise(1e-10, 1e-10),
    torch.float32: Promise(1e-5, 1e-5),
    torch.bfloat16: Promise(1e-2, 3e-2),
}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def bound(promise: float) -> str:
    """A bound as one writes it by hand: 1e-5."""
    return f"{promise:.0e}".replace("e-0", "e-")


class Row(NamedTuple):
    """What was found of a case on a kernel."""

    kernel: str
    dtype: torch.dtype
    case: str
    outputs: float
    states: float
    input_gradients: float  # and of the initial states, where there are any
    weight_gradients: float | None  # None: a kernel for inference has none
    ours_ms: float
    theirs_ms: float

    @property
    def beyond(self) -> list[str]:
        """What is further from nn.LSTM than promised, in words; so is a NaN."""
        promise = PROMISES[self.dtype]
        found = (
            ("outputs", self.outputs, promise.results),
            ("states", self.states, promise.results),
            ("gradients of the input", self.input_gradients, promise.gradients),
            ("gradients of the weights", self.weight_gradients, promise.gradients),
        )
        row = f"{self.kernel}, {name_of(self.dtype)}, {self.case}"
        return [
            f"{row}: {what} differ by {difference:.1e}, more than {bound(promised)}"
            for what, difference, promised in found
            if difference is not None and not difference <= promised
        ]


class Derived(NamedTuple):
    """A module's results, and the gradients that its inputs and weights get from them."""

    results: Results
    inputs: Sequence[Tensor]  # of x, and of h_0 and c_0 where there are any
    weights: Sequence[Tensor]  # none of a frozen module


def measure(choice: Choice, drawn: Drawn, repetitions: int) -> Row | None:
    """None where the kernel leaves the case to the reference, as it leaves training."""
    ours, judge, dtype = drawn.ours, drawn.judge, drawn.x.dtype
    is_reference, is_training = choice.name == "reference", judge.training
    if is_training and not is_reference:
        return None
    exact = drawn.to(torch.float64) if dtype == torch.bfloat16 else drawn
    expected = _derive(exact.judge, exact)
    found = [_derive(ours, drawn)] if is_reference else []
    if not is_training:
        ours.freeze(choice.kernel)
        if any(layer.kernel != choice.name for layer in ours.layers()):
            return None
        found.append(_derive(ours, drawn))
    with torch.inference_mode():
        results = [run(ours, drawn), *(own.results for own in found)]
        calls = [prepare(ours, drawn), prepare(judge, drawn)]
        ours_ms, theirs_ms = _milliseconds(calls, repetitions, drawn.x.device)
    weights = [(found[0].weights, expected.weights)]
    return Row(
        choice.name,
        dtype,
        drawn.case.name,
        outputs=_largest(_of_results, ((own[:1], expected.results[:1]) for own in results)),
        states=_largest(_of_results, ((own[1:], expected.results[1:]) for own in results)),
        input_gradients=_largest(_of_gradients, ((own.inputs, expected.inputs) for own in found)),
        weight_gradients=_largest(_of_gradients, weights) if is_reference else None,
        ours_ms=ours_ms,
        theirs_ms=theirs_ms,
    )


def _derive(lstm: nn.LSTM | BiLSTM, drawn: Drawn) -> Derived:
    """Of a loss in which each number of y, h_n and c_n counts, and differently.

    All count positively, so that the shares of a gradient do not cancel each other.
    """
    leaves = [tensor.clone().requires_grad_() for tensor in (drawn.x, *(drawn.hx or ()))]
    hx = (leaves[1], leaves[2]) if drawn.hx else None
    weights = [] if isinstance(lstm, BiLSTM) and lstm.is_frozen else list(lstm.parameters())
    y, h_n, c_n = run(lstm, drawn._replace(x=leaves[0], hx=hx))
    loss = torch.zeros((), dtype=torch.float64, device=y.device)
    for t in (y, h_n, c_n):
        probe = 2 + torch.arange(t.numel(), dtype=torch.float64, device=t.device).cos()
        loss = loss + (t.double() * probe.view(t.shape)).sum()
    gradients = torch.autograd.grad(loss, [*leaves, *weights])
    count = len(leaves)
    return Derived((y.detach(), h_n.detach(), c_n.detach()), gradients[:count], gradients[count:])


# -- the measures -----------------------------------------------------------------------------

Measure = Callable[[Tensor, Tensor], Tensor]


def _largest(measure: Measure, pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> float:
    """Of all tensors, each beside what is expected of it; NaN if one is."""
    found = [
        (_relative_norm if one.dtype == torch.bfloat16 else measure)(one.double(), other.double())
        for own, expected in pairs
        for one, other in zip(own, expected, strict=True)
    ]
    return float(torch.stack(found).max())


def _of_results(own: Tensor, expected: Tensor) -> Tensor:
    """At most t where `torch.testing.assert_close` passes with rtol = atol = t."""
    return ((own - expected).abs() / (1 + expected.abs())).max()


def _of_gradients(own: Tensor, expected: Tensor) -> Tensor:
    """Over the tensor's largest number, as the loss makes gradients large or small."""
    return (own - expected).abs().max() / expected.abs().max()


def _relative_norm(own: Tensor, expected: Tensor) -> Tensor:
    """What half precision is measured by: the error's norm over that of the exact result."""
    norm = torch.linalg.vector_norm
    return torch.div(norm(own - expected), norm(expected))


# -- the time ---------------------------------------------------------------------------------


def _milliseconds(calls: Sequence[Call], repetitions: int, device: torch.device) -> list[float]:
    """Each one's median; they take turns, so that a slow phase of the machine hits all."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repetition in range(WARM_UPS + repetitions):
        for call, own in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repetition >= WARM_UPS:
                own.append(time.perf_counter() - start)
    return [1e3 * statistics.median(own) for own in seconds]
