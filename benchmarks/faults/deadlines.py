"""Callers with deadlines of 100 ms, fewer and many more than a server can answer whose batches take
25 ms: what is answered in time, what is computed for nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.fixed_cost_server import BATCH_SECONDS, TOKEN_SECONDS
from bilstm_server.model import PlainConfig, SequenceEncoder, save_model
from bilstm_server.testing import ServerProcess, server_process

from .findings import Finding
from .generator import CONNECTIONS

NAME = "deadlines"
_WIDTH, _STEPS = 4, 100
_BATCH_CALLS = 4  # so few that the device is what there is too little of, at any load
_BATCH_TOKENS = _BATCH_CALLS * _STEPS
_CAPACITY = _BATCH_CALLS / (BATCH_SECONDS + _BATCH_TOKENS * TOKEN_SECONDS)  # calls a second
_TIMEOUT = 100  # ms
_LEAST_SHARES = {0.8: 0.98 * 0.8, 1.2: 0.88, 1.5: 0.85, 3.0: 0.8, 10.0: 0.75}
_MOST_WASTED = 1.0  # percent of the tokens that were computed
_SECONDS = 6.0
_COUNTS = ("tokens", "wasted_tokens", "spared_tokens", "misjudged")
_NONE: dict[str, float] = {"calls": 0, "p50": 0.0, "p99": 0.0}
_EXCEEDED = "4"


def trial() -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = PlainConfig(input_size=_WIDTH, hidden_size=4).graph()
        save_model(SequenceEncoder(config), Path(folder))
        tokens = [f"--max-{what}-tokens={_BATCH_TOKENS}" for what in ("batch", "sequence")]
        flags = (f"--model=bench={folder}", *tokens)
        with server_process(*flags, module="benchmarks.fixed_cost_server") as server:
            _generate(server.target, 1.0, rate=_CAPACITY)  # warms it up
            for load, least in _LEAST_SHARES.items():
                yield from _findings(server, load, least)


def _findings(server: ServerProcess, load: float, least: float) -> Iterator[Finding]:
    before = _counts(server)
    answered = _generate(server.target, _SECONDS, rate=load * _CAPACITY)
    counted = {name: count - before[name] for name, count in _counts(server).items()}
    sent = f"{load:g} times {_CAPACITY:.0f} calls/s, {_TIMEOUT} ms each, by {CONNECTIONS}"
    wasted = 100 * counted["wasted_tokens"] / counted["tokens"]
    refused = answered["statuses"].get(_EXCEEDED, _NONE)
    yield Finding(
        NAME, sent, "in time, of the capacity", answered["goodput"] / _CAPACITY, least=least
    )
    yield Finding(NAME, sent, "computed for nobody", wasted, "%", _MOST_WASTED)
    yield Finding(NAME, sent, "calls let in that were too late", counted["misjudged"])
    yield Finding(NAME, sent, "tokens that were spared", counted["spared_tokens"])
    yield Finding(NAME, sent, "calls told that it was too late", refused["calls"])
    yield Finding(NAME, sent, "these calls' p50", refused["p50"], "ms")


def _counts(server: ServerProcess) -> dict[str, float]:
    metrics = server.metrics()
    return {name: metrics[f'bilstm_{name}_total{{model="bench"}}'] for name in _COUNTS}


def _generate(target: str, seconds: float, rate: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.faults.generator", target]
    command += [f"--steps={_STEPS}", f"--width={_WIDTH}", f"--seconds={seconds}"]
    command += [f"--rate={rate}", f"--timeout={_TIMEOUT}"]
    # `run` kills it if it is interrupted itself.
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 60)
    load: dict[str, Any] = json.loads(done.stdout)
    return load
