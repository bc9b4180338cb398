"""Ten times as many requests as the server can compute: what is answered, refused, and when.

On few cores the load, and refusing itself, take from computing. So the goodput is held against the
capacity, and then against what is left of that while the same load is answered by a bare server.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bilstm_server.model import PlainConfig, SequenceEncoder, save_model

from .attacked import Attacked, attacked
from .bare import bare_server
from .findings import Finding
from .generator import CONNECTIONS
from .prober import HEALTH, probing

NAME = "overload"
_WIDTH = 16
# Units of a model and steps of a call, so that two cores compute some three hundred calls a second,
# a hundred, or thirty.
_SIZES = ((256, 110), (256, 440), (512, 440))
_CALLERS = 64
_TIMES = 10
_CAPACITY_SECONDS, _SECONDS = 12.0, 60.0
_OK, _EXHAUSTED = "0", "8"
_LEAST_SHARE = 0.9
_MOST_WAIT = 50.0  # ms
_MOST_GROWN = 128.0  # MB
_NONE: dict[str, float] = {"calls": 0, "p50": 0.0, "p99": 0.0}


def trial(seconds: float = _SECONDS) -> Iterator[Finding]:
    for units, steps in _SIZES:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            config = PlainConfig(input_size=_WIDTH, hidden_size=units, num_layers=2).graph()
            save_model(SequenceEncoder(config), Path(folder))
            with attacked(f"--model=bench={folder}") as server:
                yield from _overload(server, steps, seconds)


def _overload(server: Attacked, steps: int, seconds: float) -> Iterator[Finding]:
    callers = {"steps": steps, "callers": _CALLERS}
    _generate(server.target, 1.0, **callers)  # warms it up
    capacity = _generate(server.target, _CAPACITY_SECONDS, **callers)["goodput"]
    rate = _TIMES * capacity
    with bare_server() as bare, _generating(bare, _CAPACITY_SECONDS + 2, steps=steps, rate=rate):
        beside = _generate(server.target, _CAPACITY_SECONDS, **callers)["goodput"]
    with probing(server.target, _WIDTH) as prober:
        prober.waits()
        before = server.wire_seconds
        with server.peak() as grown:
            load = _generate(server.target, seconds, steps=steps, rate=rate)
        spent = server.wire_seconds - before
        health = prober.waits()[HEALTH]
    sent = f"{_TIMES} times {capacity:.0f} calls/s for {seconds:.0f} s, by {CONNECTIONS}"
    goodput = load["goodput"]
    yield Finding(NAME, sent, "goodput, of the capacity", goodput / capacity, least=_LEAST_SHARE)
    left = beside / capacity
    yield Finding(NAME, sent, "what a bare server that refuses as much leaves", left)
    yield Finding(NAME, sent, "goodput, of that", goodput / beside)
    yield from _by_status(sent, load)
    yield Finding(NAME, sent, "resident memory grew by", grown[0], "MB", _MOST_GROWN)
    yield Finding(NAME, sent, "health's p99", health.p99, "ms")
    calls = sum(status["calls"] for status in load["statuses"].values())
    yield Finding(NAME, sent, "the server's loop and gRPC, a call", 1e6 * spent / calls, "µs")
    yield Finding(NAME, sent, "the generator, a call", 1e6 * load["cpu_seconds"] / calls, "µs")


def _by_status(sent: str, load: dict[str, Any]) -> Iterator[Finding]:
    statuses = load["statuses"]
    accepted, refused = statuses.get(_OK, _NONE), statuses.get(_EXHAUSTED, _NONE)
    yield Finding(NAME, sent, "refusals' p50", refused["p50"], "ms")
    yield Finding(NAME, sent, "refusals' p99", refused["p99"], "ms", _MOST_WAIT)
    yield Finding(NAME, sent, "refusals", refused["calls"], least=1)
    yield Finding(NAME, sent, "accepted calls' p50", accepted["p50"], "ms")
    yield Finding(NAME, sent, "accepted calls' p99", accepted["p99"], "ms")
    for status in statuses.keys() - {_OK, _EXHAUSTED}:
        calls = statuses[status]["calls"]
        yield Finding(NAME, sent, f"calls that ended as {status}", calls, most=0)
    yield Finding(NAME, sent, "calls not answered 20 s later", load["unanswered"], most=0)
    yield Finding(NAME, sent, "calls that no connection took", load["unsent"], most=0)


def _generate(target: str, seconds: float, **how: float) -> dict[str, Any]:
    # `run` kills it if it is interrupted itself.
    done = subprocess.run(
        _command(target, seconds, **how), stdout=subprocess.PIPE, check=True, timeout=seconds + 60
    )
    load: dict[str, Any] = json.loads(done.stdout)
    return load


@contextmanager
def _generating(target: str, seconds: float, **how: float) -> Iterator[None]:
    """Load it meanwhile, at the most for so long."""
    command = _command(target, seconds, **how)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _command(target: str, seconds: float, **how: float) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.faults.generator", target]
    command += [f"--width={_WIDTH}", f"--seconds={seconds}"]
    return command + [f"--{name}={value}" for name, value in how.items()]
