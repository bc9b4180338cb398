"""Ten times as many requests as the server can compute: what is answered, refused, and when."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bilstm_server.model import PlainConfig, SequenceEncoder, save_model

from .attacked import attacked
from .findings import Finding
from .generator import CONNECTIONS
from .prober import HEALTH, probing

NAME = "overload"
_WIDTH = 16
_STEPS = 110  # at which two cores compute some three hundred calls a second
_CALLERS = 64
_TIMES = 10
_CAPACITY_SECONDS, _SECONDS = 4.0, 10.0
_OK, _EXHAUSTED = "0", "8"
_LEAST_SHARE = 0.85
_MOST_WAIT = 50.0  # ms
_MOST_GROWN = 128.0  # MB
_NONE: dict[str, float] = {"calls": 0, "p50": 0.0, "p99": 0.0}


def trial() -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = PlainConfig(input_size=_WIDTH, hidden_size=256, num_layers=2).graph()
        save_model(SequenceEncoder(config), Path(folder))
        with attacked(f"--model=bench={folder}") as server:
            _generate(server.target, 1.0, callers=_CALLERS)  # warms it up
            capacity = _generate(server.target, _CAPACITY_SECONDS, callers=_CALLERS)["goodput"]
            with probing(server.target, _WIDTH) as prober:
                prober.waits()
                before = server.cpu_seconds
                with server.peak() as grown:
                    load = _generate(server.target, _SECONDS, rate=_TIMES * capacity)
                health = prober.waits()[HEALTH]
            cpu = server.cpu_seconds - before
    sent = f"{_TIMES} times {capacity:.0f} calls/s for {_SECONDS:.0f} s, by {CONNECTIONS}"
    statuses = load["statuses"]
    accepted, refused = statuses.get(_OK, _NONE), statuses.get(_EXHAUSTED, _NONE)
    share = load["goodput"] / capacity
    yield Finding(NAME, sent, "goodput, of the capacity", share, least=_LEAST_SHARE)
    yield Finding(NAME, sent, "refusals' p50", refused["p50"], "ms")
    yield Finding(NAME, sent, "refusals' p99", refused["p99"], "ms", _MOST_WAIT)
    yield Finding(NAME, sent, "refusals", refused["calls"])
    yield Finding(NAME, sent, "accepted calls' p50", accepted["p50"], "ms")
    yield Finding(NAME, sent, "accepted calls' p99", accepted["p99"], "ms")
    for status in statuses.keys() - {_OK, _EXHAUSTED}:
        calls = statuses[status]["calls"]
        yield Finding(NAME, sent, f"calls that ended as {status}", calls, most=0)
    yield Finding(NAME, sent, "calls not answered 20 s later", load["unanswered"], most=0)
    yield Finding(NAME, sent, "calls that no connection took", load["unsent"], most=0)
    yield Finding(NAME, sent, "resident memory grew by", grown[0], "MB", _MOST_GROWN)
    yield Finding(NAME, sent, "health's p99", health.p99, "ms")
    yield Finding(NAME, sent, "the server's processor time", cpu, "s")
    yield Finding(NAME, sent, "the generator's processor time", load["cpu_seconds"], "s")


def _generate(target: str, seconds: float, **how: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.faults.generator", target]
    command += [f"--steps={_STEPS}", f"--width={_WIDTH}", f"--seconds={seconds}"]
    command += [f"--{name}={value}" for name, value in how.items()]
    # `run` kills it if it is interrupted itself.
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 60)
    load: dict[str, Any] = json.loads(done.stdout)
    return load
