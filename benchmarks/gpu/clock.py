"""How long a GPU, or a host that waits for it, takes. Knows no model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch

from bilstm_server.model.kernels.gpu.tuning import Run, device_microseconds

ROUNDS, TIMED = 3, 3  # blocks of each run, and repetitions of a block, after one discarded
PATIENCE_SECONDS = 0.5  # of a run: it starts no further block
HOST_TIMES = 9

# The device waits for so many cycles while the host launches what is to be timed: at least as long
# as the host took before, whatever its clock.
CYCLES_PER_SECOND = 2e9
LEAST_WAIT_SECONDS, MOST_WAIT_SECONDS = 50e-6, 50e-3


def launch_cycles(run: Run) -> int:
    """The cycles for which the device must wait while the host launches `run`, and some more."""
    torch.cuda.synchronize()
    started_at = time.perf_counter()
    run()
    seconds = time.perf_counter() - started_at
    torch.cuda.synchronize()
    return int(CYCLES_PER_SECOND * min(max(1.5 * seconds, LEAST_WAIT_SECONDS), MOST_WAIT_SECONDS))


def host_microseconds(run: Run) -> float:
    """The median time from an idle device to a result that was waited for."""
    times = []
    for _ in range(HOST_TIMES):
        torch.cuda.synchronize()
        started_at = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - started_at))
    return statistics.median(times)


def medians(runs: Mapping[str, Run]) -> dict[str, float]:
    """Each one's microseconds on the device. They take turns in blocks."""
    for run in runs.values():
        run()  # whatever the first one alone has to do
    waits = {name: launch_cycles(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            if spent[name] < PATIENCE_SECONDS:
                started_at = time.perf_counter()
                run()
                times[name] += [device_microseconds(run, waits[name]) for _ in range(TIMED)]
                spent[name] += time.perf_counter() - started_at
    return {name: statistics.median(own) for name, own in times.items()}


def median(run: Run) -> float:
    """Its microseconds on the device."""
    return medians({"": run})[""]
