"""What runs one ragged batch on a GPU: ours, and nn.LSTM, which is cuDNN's there.

Owns how each is fed, and how far ours is from nn.LSTM. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_sequence

from benchmarks.competitors import OURS, PACKED, PADDED
from benchmarks.gpu.results import GRAPH, PACKED_GRAPH, Trial
from benchmarks.operator_results import LAYERS
from bilstm_server.model import BiLSTM, RaggedBatch
from bilstm_server.model.kernels import Kernel
from bilstm_server.model.kernels.gpu.kernel import GpuKernel
from bilstm_server.model.kernels.gpu.plans import Cost, Plan
from bilstm_server.model.kernels.gpu.tuning import Run, Tuner

CUDA = torch.device("cuda")
DTYPES = {"bfloat16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}
# Of the relative norm of ours less nn.LSTM's in float64: outputs and final states.
TOLERANCES = {"bfloat16": 1e-2, "tf32": 3e-3, "float32": 1e-5}


class Models(NamedTuple):
    """Of the same weights."""

    lstm: nn.LSTM
    judge: nn.LSTM  # in float64
    ours: BiLSTM


def use(arithmetic: str) -> None:
    """Have torch and the kernel multiply in TF32, or not."""
    is_tf32 = arithmetic == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_tf32


TRIALS: list[Trial] = []  # what the kernel tried for the models so far


class NotingTuner(Tuner):
    """A tuner that notes in `TRIALS` what it tries."""

    def trials(self) -> Iterator[tuple[Plan, Cost | Exception]]:
        for plan, found in super().trials():
            TRIALS.append(Trial(self.shape, str(plan), _words(found)))
            yield plan, found


def _words(found: Cost | Exception) -> str:
    if isinstance(found, Cost):
        return ", ".join(f"{part} {cost:.2f}" for part, cost in found._asdict().items())
    first_line = str(found).split("\n", 1)[0]
    return f"{type(found).__name__}: {first_line}".replace("|", "/")[:200]


@cache
def kernel() -> Kernel:
    """The GPU's kernel. Raises `KernelUnavailable`."""
    return GpuKernel(CUDA, NotingTuner)


@cache
@torch.inference_mode(False)
def models(arithmetic: str, hidden: int, layers: int = LAYERS) -> Models:
    """Ours is frozen: the kernel has tuned itself for it."""
    use(arithmetic)
    torch.manual_seed(0)
    lstm = nn.LSTM(hidden, hidden, layers, bidirectional=True, dtype=DTYPES[arithmetic]).eval()
    judge = nn.LSTM(hidden, hidden, layers, bidirectional=True, dtype=torch.float64).eval()
    judge.load_state_dict(lstm.state_dict())
    ours = BiLSTM.from_torch(lstm.to(CUDA)).freeze(kernel())
    return Models(lstm, judge.to(CUDA), ours)


def left_to(ours: BiLSTM) -> str:
    """What runs it, if that is not the gpu kernel."""
    return "; ".join(
        dict.fromkeys(
            f"ours is the {layer.kernel} kernel's: {layer.fallback_reason}"
            for layer in ours.layers()
            if layer.kernel != "gpu"
        )
    )


def packed(x: Tensor, batch: RaggedBatch) -> PackedSequence:
    """Sorted, as nn.LSTM likes it best."""
    return PackedSequence(x[batch.forward_rows], torch.tensor(batch.batch_sizes))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def error_of_ours(own: Models, x: Tensor, batch: RaggedBatch) -> float:
    """The largest of outputs and final states; NaN if one has a NaN."""
    y, (h_n, c_n) = own.ours.forward_ragged(x, batch)
    expected, (judged_h_n, judged_c_n) = own.judge(packed(x.double(), batch))
    errors = [
        relative_error(y[batch.forward_rows], expected.data),
        relative_error(h_n[:, batch.order], judged_h_n),
        relative_error(c_n[:, batch.order], judged_c_n),
    ]
    return float(torch.tensor(errors).max())


def captured(run: Run) -> Run:
    """Replays what it launches, from a CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def attempt(make: Callable[[], Run]) -> Run | None:
    """What has been made and run once; None for what can't be captured, or has no memory."""
    try:
        run = make()
        run()
        torch.cuda.synchronize()
    except RuntimeError:
        torch.cuda.synchronize()  # raises again if the device is lost
        return None
    return run


def systems(own: Models, x: Tensor, batch: RaggedBatch) -> dict[str, Run]:
    """All that can run the batch."""
    steps_first = packed(x, batch)
    padded = pad_sequence(list(torch.split(x, batch.lengths.tolist())))
    others: dict[str, Callable[[], Run]] = {
        PACKED: lambda: lambda: own.lstm(steps_first),
        PADDED: lambda: lambda: own.lstm(padded),
        GRAPH: lambda: captured(lambda: own.lstm(padded)),
        PACKED_GRAPH: lambda: captured(lambda: own.lstm(steps_first)),
    }
    found = {name: run for name, make in others.items() if (run := attempt(make))}
    return {OURS: lambda: own.ours.forward_ragged(x, batch), **found}
