"""The operator's speed on a GPU beside that of nn.LSTM, which is cuDNN's there, in one run.

    python -m benchmarks.gpu

Measures one forward pass without a server. The most important batches come first, and what there
was no time for is listed. Exits with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch

from benchmarks.competitors import OURS
from benchmarks.gpu.ceilings import ceilings, chain_step
from benchmarks.gpu.clock import ROUNDS, TIMED, host_microseconds, medians
from benchmarks.gpu.floor import Rates
from benchmarks.gpu.results import Case, Results, Row, cases, check
from benchmarks.gpu.systems import (
    CUDA,
    DTYPES,
    TOLERANCES,
    TRIALS,
    error_of_ours,
    kernel,
    left_to,
    models,
    systems,
    use,
)
from benchmarks.gpu.tables import floors_table, tables
from benchmarks.operator_results import LAYERS
from bilstm_server.model import RaggedBatch
from bilstm_server.model.kernels import KernelUnavailable

HOST_SEQUENCES = 32  # up to which the host's time is measured too
COMPILE_SHARE = 0.4  # of the seconds that there are, at most
NO_GPU = 2  # exit code

T = TypeVar("T")


def measure(case: Case, rates: Rates) -> Row:
    """Measure one case. Raises `ValueError` if ours computes something else than nn.LSTM."""
    own = models(case.arithmetic, case.hidden)
    use(case.arithmetic)
    lengths = case.lengths()
    batch = RaggedBatch(lengths, CUDA)
    x = torch.randn(batch.steps, case.hidden, device=CUDA).to(DTYPES[case.arithmetic])
    error = error_of_ours(own, x, batch)  # before anything that could leave its results in memory
    if not error <= TOLERANCES[case.arithmetic]:
        raise ValueError(f"ours is {error:.1e} off nn.LSTM in float64")
    runs = systems(own, x, batch)
    host = {}
    if case.sequences <= HOST_SEQUENCES:
        with_index = {OURS: lambda: own.ours.forward_ragged(x, RaggedBatch(lengths, CUDA))}
        host = {name: host_microseconds(run) for name, run in (runs | with_index).items()}
    return Row(
        case,
        batch.steps,
        int(lengths.max()),
        error,
        floor=case.floor(rates),
        device=medians(runs),
        host=host,
        note=left_to(own.ours),
    )


def measure_all(seconds: float) -> Results:
    """Measure for so long. What fails is noted, and the others go on, unless it has cost the
    device: nothing more runs in this process then.
    """
    give_up_at = time.monotonic() + seconds
    sizes = list(dict.fromkeys((case.arithmetic, case.hidden) for case in cases()))
    compile_ahead(sizes, COMPILE_SHARE * seconds)
    results = Results(about(), ceilings(), TRIALS)
    try:
        with noted("the chain of steps", {}):
            results.rates = replace(results.rates, step=chain_step())
        for case in cases():
            if time.monotonic() > give_up_at:
                break
            with noted(case, results.failures):
                results.rows[case] = row = measure(case, results.rates)
                times = (f"{name} {own:.0f} µs" for name, own in row.device.items())
                print(f"{case}: {', '.join(times)}", file=sys.stderr)
    except RuntimeError as error:
        print(f"no more is measured: {error}", file=sys.stderr)
    return results


@contextmanager
def noted(what: T, failures: dict[T, str]) -> Iterator[None]:
    """Note an error's first line, and go on. Raises `RuntimeError` if it has cost the device."""
    try:
        yield
    except Exception as error:  # of many types: torch's, Triton's, a wrong result
        failures[what] = str(error).split("\n", 1)[0].replace("|", "/")[:200]
        print(f"{what}: {failures[what]}", file=sys.stderr)
        torch.cuda.synchronize()


def compile_ahead(sizes: list[tuple[str, int]], seconds: float) -> None:
    """Fill Triton's cache with what the tuner compiles, on all cores: alone it takes minutes. What
    is not ready in time is compiled when it is needed.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(len(sizes), os.cpu_count() or 1)) as pool:
        pool.starmap_async(compile_for, sizes, chunksize=1).wait(seconds)


def compile_for(arithmetic: str, hidden: int) -> None:
    """Compile what a model of this size needs, and leave it in Triton's cache."""
    models(arithmetic, hidden)


def about() -> list[str]:
    """Lines on the machine, and on how it was measured."""
    properties: Any = torch.cuda.get_device_properties(CUDA)
    cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return [
        f"BiLSTM, width = hidden, {LAYERS} layers, 2 directions, on {properties.name}. torch "
        f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}.",
        "Lengths log-normal. Random inputs, on the device before the clock starts; weights and "
        "small batches may lie in L2, as in a server that goes on serving.",
        f"Medians of {ROUNDS} blocks of {TIMED} repetitions, in which the systems take turns. The "
        "device waits while the host launches; of more launches than its queue holds, about a "
        "thousand, nn.LSTM packed has some with the host's time.",
        "Each row's outputs and final states of ours were compared with nn.LSTM's in float64 "
        "first. nn.LSTM padded, also from a CUDA graph, is for scale only where there are several "
        "sequences: on ragged input its backward states are wrong, because they start in the "
        "padding. What could not be captured has no figure.",
        "Floors: see benchmarks/gpu/floor.py, with the ceilings measured in this run. A step's "
        "wait for the one before is what this kernel itself takes for one sequence at hidden 64 "
        "in bfloat16: no law of the device.",
    ]


def no_gpu() -> str:
    """Why it can't be measured here; empty if it can."""
    if not torch.cuda.is_available():
        return "torch finds no GPU of NVIDIA's that it can use"
    try:
        kernel()
    except KernelUnavailable as error:
        return str(error)
    return ""


def report(results: Results, is_checked: bool) -> int:
    """Print the tables; the exit code is 1 where a target is missed, or none could be held."""
    print("\n".join(tables(results)))
    if not is_checked:
        return 0
    compared, missed, unmeasured = check(results)
    print("", *(f"- {miss}" for miss in missed), sep="\n")
    print(f"\n{len(missed)} of {compared} targets missed, {len(unmeasured)} not measured.")
    return 1 if missed or not compared else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=280.0, help="after which no row begins")
    parser.add_argument(
        "--floors", action="store_true", help="of an H200, by its datasheet; no GPU"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    chosen = parser.parse_args()
    if chosen.floors:
        print("\n".join(floors_table()))
        return 0
    if why := no_gpu():
        print(f"no GPU: {why}", file=sys.stderr)
        return NO_GPU
    with torch.inference_mode():
        return report(measure_all(chosen.seconds), chosen.check)


if __name__ == "__main__":
    sys.exit(main())
