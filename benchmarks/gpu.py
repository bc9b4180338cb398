"""The operator's speed on a GPU beside that of nn.LSTM, which is cuDNN's there, in one run.

    python -m benchmarks.gpu

Owns the measurement of one forward pass without a server. The most important batches come first,
and what there was no time for is listed. What was found is written as it comes (`--json`), and
another run goes on from there. Exits with 2 where there is no GPU, and with 3 after an error that
lost it: then another process may go on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.competitors import OURS
from benchmarks.gpu_ceilings import ceilings, chain_step
from benchmarks.gpu_clock import ROUNDS, TIMED, host_microseconds, medians
from benchmarks.gpu_floor import Rates
from benchmarks.gpu_results import (
    About,
    Case,
    Failure,
    Journal,
    Results,
    Row,
    Trial,
    check,
)
from benchmarks.gpu_systems import (
    CUDA,
    DTYPES,
    TOLERANCES,
    error_of_ours,
    left_to,
    models,
    systems,
    use,
)
from benchmarks.gpu_tables import floors_table, tables
from benchmarks.operator_results import LAYERS
from bilstm_server.model import RaggedBatch
from bilstm_server.model.kernels import KernelUnavailable, choose_kernel

HOST_SEQUENCES = 32  # up to which the host's time is measured too
COMPILE_SHARE = 0.4  # of the seconds that there are, at most
NO_GPU, LOST_GPU = 2, 3  # exit codes


def measure(case: Case, rates: Rates) -> Row:
    """Raises `ValueError` if ours computes something else than nn.LSTM."""
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


# -- the run ---------------------------------------------------------------------------------------


def no_gpu() -> str:
    """Why it can't be measured here; empty if it can."""
    if not torch.cuda.is_available():
        return "torch finds no GPU of NVIDIA's that it can use"
    try:
        choose_kernel("gpu", CUDA)
    except KernelUnavailable as error:
        return str(error)
    return ""


def watch_tuner(journal: Journal) -> None:
    """Have the plans that it tries written down."""
    from bilstm_server.model.kernels.gpu import kernel as gpu
    from bilstm_server.model.kernels.gpu.plans import Shape
    from bilstm_server.model.kernels.gpu.tuning import Tuner

    arithmetics = {"tf32": "tf32", "tf32x3": "float32"}  # of Triton's precisions

    class WatchedTuner(Tuner):
        def __init__(self, shape: Shape, *others: Any):
            super().__init__(shape, *others)
            self._arithmetic = arithmetics.get(shape.precision, str(shape.dtype)[len("torch.") :])
            self._hidden = shape.hidden

        def trials(self) -> Iterator[Any]:
            for plan, found in super().trials():
                tried = (self._arithmetic, self._hidden, str(plan))
                if isinstance(found, Exception):
                    why = f"{type(found).__name__}: {_brief(found)}"
                    journal.append(Trial(*tried, cost={}, dropped=why))
                else:
                    journal.append(Trial(*tried, cost=found._asdict()))
                yield plan, found

    vars(gpu).update(Tuner=WatchedTuner)


def compile_ahead(sizes: list[tuple[str, int]], seconds: float) -> None:
    """Fill Triton's cache with what the tuner compiles, on all cores: alone it takes minutes. What
    is not ready in time is compiled when it is needed.
    """
    if sizes:
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(len(sizes), os.cpu_count() or 1)) as pool:
            pool.starmap_async(_tune, sizes, chunksize=1).wait(seconds)


def _tune(arithmetic: str, hidden: int) -> None:
    models(arithmetic, hidden)


def about() -> list[str]:
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
        "sequences: on ragged input its reverse states are wrong, because they start in the "
        "padding. What could not be captured has no figure.",
        "Floors: see benchmarks/gpu_floor.py, with the ceilings measured in this run. A step's "
        "wait for the one before is what this kernel itself takes for one sequence at hidden 64 "
        "in bfloat16: no law of the device.",
    ]


def measure_all(journal: Journal, seconds: float) -> int:
    """Exit code."""
    give_up_at = time.monotonic() + seconds
    results = journal.read()
    if results.about and results.about != about():
        print("the records there are of another machine, or of other versions", file=sys.stderr)
        return NO_GPU
    watch_tuner(journal)
    waiting = results.to_measure()
    if results.rates is None:
        journal.append(About(about()))
        sizes = list(dict.fromkeys((case.arithmetic, case.hidden) for case in waiting))
        compile_ahead(sizes, COMPILE_SHARE * seconds)
    with torch.inference_mode():
        rates = results.rates
        if rates is None:
            rates = ceilings()
            journal.append(rates)  # before the kernel runs, which may lose the GPU
            try:
                rates = replace(rates, step=chain_step())
                journal.append(rates)
            except Exception as error:
                print(f"the chain of steps: {_brief(error)}", file=sys.stderr)
                if _is_lost():
                    return LOST_GPU
        for case in waiting:
            if time.monotonic() > give_up_at:
                break
            found: Row | Failure
            try:
                found = measure(case, rates)
            except Exception as error:  # of many types: torch's, Triton's, a wrong result
                found = Failure(case, _brief(error), _is_lost())
            journal.append(found)
            print(f"{case}: {_summary(found)}", file=sys.stderr, flush=True)
            if isinstance(found, Failure) and found.lost_device:
                return LOST_GPU
    return 0


def _is_lost() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _summary(found: Row | Failure) -> str:
    if isinstance(found, Failure):
        return found.why
    return ", ".join(f"{name} {own:.0f} µs" for name, own in found.device.items())


def _brief(error: Exception) -> str:
    """Its first line, fit for a table."""
    return str(error).split("\n", 1)[0].replace("|", "/")[:200]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=280.0, help="after which no row begins")
    parser.add_argument("--json", type=Path, help="write records there, and go on from them")
    parser.add_argument("--read", type=Path, help="what --json wrote, instead of measuring")
    parser.add_argument(
        "--floors", action="store_true", help="of an H200, by its datasheet; no GPU"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    if chosen.floors:
        print("\n".join(floors_table()))
        return 0
    if chosen.read:
        return report(Journal(chosen.read).read(), chosen.check)
    if why := no_gpu():
        print(f"no GPU: {why}", file=sys.stderr)
        return NO_GPU
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(chosen.json or Path(folder) / "records")
        code = measure_all(journal, chosen.seconds)
        return report(journal.read(), chosen.check) if code == 0 else code


def report(results: Results, is_checked: bool) -> int:
    """Print the tables; the exit code is 1 where a target is missed, or none could be held."""
    print("\n".join(tables(results)))
    if not is_checked:
        return 0
    compared, missed, unmeasured = check(results)
    print("", *(f"- {miss}" for miss in missed), sep="\n")
    print(f"\n{len(missed)} of {compared} targets missed, {len(unmeasured)} not measured.")
    return 1 if missed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
