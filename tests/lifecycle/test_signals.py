"""What signals do to a real `bilstm-server serve`, whenever they come."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.testing import Event, ServerProcess, server_process
from tests.lifecycle.calls import Array, Judge, is_right, request, sequence
from tests.support.servers import write_model
from tests.support.waiting import HANGS_AFTER_SECONDS

STARTED = (
    'grpc_server_started_total{grpc_method="Encode",'
    'grpc_service="bilstm.v1.EncoderService",grpc_type="unary"}'
)


@contextmanager
def serving(*flags: object) -> Iterator[tuple[ServerProcess, grpc.Channel]]:
    """A server process that is ready, and a channel to it."""
    with (
        server_process(*map(str, flags)) as process,
        grpc.insecure_channel(process.target) as channel,
    ):
        yield process, channel


def troubles(process: ServerProcess) -> list[Event]:
    """The events in its log that no server should have logged."""
    return [e for e in process.log if e["level"] not in {"info", "debug"} or "exception" in e]


def last_events(process: ServerProcess, count: int) -> list[str]:
    return [event["event"] for event in process.log[-count:]]


def await_started(process: ServerProcess, calls: int) -> None:
    """Wait until that many calls have been accepted."""
    for _ in range(10_000):
        if process.metrics().get(STARTED) == calls:
            return
    raise AssertionError(f"{calls} calls never started")


def test_sigterm_under_load(model_folder: Path, judge: Judge) -> None:
    """With many callers in flight, SIGTERM gives each call its right result or UNAVAILABLE,
    nothing else, and the process exits 0 without an error in its log."""
    callers = 16
    replies: queue.Queue[tuple[Array, pb.EncodeResponse]] = queue.Queue()
    codes: queue.Queue[grpc.StatusCode] = queue.Queue()

    def call_until_refused(stub: encoder_pb2_grpc.EncoderServiceStub, seed: int) -> None:
        generator = np.random.default_rng(seed)
        while True:
            x = generator.standard_normal((int(generator.integers(1, 30)), 5), np.float32)
            try:
                replies.put((x, stub.Encode(request(x), timeout=HANGS_AFTER_SECONDS)))
            except grpc.RpcError as error:
                codes.put(error.code())
                return

    with serving("--model", f"small={model_folder}") as (process, channel):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        threads = [
            threading.Thread(target=call_until_refused, args=(stub, seed))
            for seed in range(callers)
        ]
        for thread in threads:
            thread.start()
        right = [replies.get(timeout=HANGS_AFTER_SECONDS) for _ in range(200)]
        process.send(signal.SIGTERM)
        for thread in threads:
            thread.join(HANGS_AFTER_SECONDS)
        assert process.wait() == 0
    right += [replies.get() for _ in range(replies.qsize())]
    assert all(is_right(reply, x, judge) for x, reply in right)
    assert [codes.get() for _ in range(callers)] == [grpc.StatusCode.UNAVAILABLE] * callers
    assert troubles(process) == []
    assert last_events(process, 2) == ["draining", "drained"]


def test_sigterm_loses_nothing_accepted(model_folder: Path, judge: Judge) -> None:
    """Every call that the server had accepted when SIGTERM came gets its right result."""
    inputs = [sequence(seed, 200) for seed in range(40)]
    options = ("--model", f"small={model_folder}", "--max-batch-sequences", 2)
    with serving(*options) as (process, channel):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        calls = [stub.Encode.future(request(x), timeout=HANGS_AFTER_SECONDS) for x in inputs]
        await_started(process, len(calls))
        process.send(signal.SIGTERM)
        replies = [call.result() for call in calls]
        assert process.wait() == 0
    assert all(is_right(reply, x, judge) for reply, x in zip(replies, inputs, strict=True))
    assert troubles(process) == []
    assert last_events(process, 1) == ["drained"]


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["shell", "nohup"])
def test_sighup_ends_nothing(model_folder: Path, before: signal.Handlers) -> None:
    """SIGHUP asks for files to be read anew, from the process's first moment, also under nohup; it
    never ends the server."""
    ours = signal.signal(signal.SIGHUP, before)
    try:
        process = ServerProcess(f"--model=small={model_folder}")
    finally:
        signal.signal(signal.SIGHUP, ours)
    try:
        process.wait_for("ready")
        process.send(signal.SIGHUP)
        assert process.wait_for("reloading")["signal"] == "SIGHUP"
        assert process.stop() == 0
        assert process.wait_for("draining")["signal"] == "SIGTERM"
        assert troubles(process) == []
    finally:
        process.kill()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_second_signal_stops_at_once(model_folder: Path, second: signal.Signals) -> None:
    """A second signal ends the process without finishing what waits, and its exit code is 1."""
    steps = 2000
    model = ("--model", f"small={model_folder}", "--kernel=reference")  # the slowest
    options = (*model, "--max-batch-sequences", 1, "--max-queue-seconds", 3600)
    with serving(*options, "--max-queue-tokens", 250 * steps) as (process, channel):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        calls = [stub.Encode.future(request(sequence(n, steps)), timeout=600) for n in range(250)]
        await_started(process, len(calls))
        process.send(signal.SIGTERM)
        process.wait_for("draining")
        process.send(second)
        assert process.wait() == 1
        codes = [call.code() for call in calls]
    (warning,) = troubles(process)
    assert process.log[-1] == warning
    assert warning["event"] == "stopped before it was drained"
    assert set(codes) <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    }
    assert codes[-1] is not grpc.StatusCode.OK


@pytest.mark.parametrize("timeout", [0.5, 3600], ids=["drain timeout", "second signal"])
def test_computation_without_end_does_not_hold_up_the_end(tmp_path: Path, timeout: float) -> None:
    """The process ends although its compute thread would go on for minutes."""
    steps = 300_000
    write_model(tmp_path / "deep", num_layers=8)
    limits = [f"--max-{of}-tokens={steps + 1}" for of in ("sequence", "batch", "queue")]
    options = (
        f"--model=deep={tmp_path}/deep",
        f"--drain-timeout-seconds={timeout}",
        "--kernel=reference",  # the slowest
        "--max-queue-delay=3600",  # until it drains
        *limits,
    )
    with serving(*options) as (process, channel):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        call = stub.Encode.future(request(np.zeros((steps, 5), np.float32)), timeout=600)
        while process.metrics()['bilstm_queue_sequences{model="deep"}'] < 1:
            pass
        process.send(signal.SIGTERM)
        process.wait_for("draining")
        if timeout == 3600:
            process.send(signal.SIGTERM)
        assert process.wait() == 1
        assert call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_signal_while_loading(model_folder: Path) -> None:
    """SIGTERM before the models are loaded ends the process with 0."""
    process = ServerProcess(f"--model=small={model_folder}")
    try:
        process.wait_for("listening")
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert troubles(process) == []
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("number", "arguments", "code"),
    [
        (signal.SIGTERM, ["serve", "--help"], 0),
        (signal.SIGINT, ["serve", "--help"], 130),
        (signal.SIGHUP, ["import", "--help"], 129),
    ],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)
def test_signal_while_importing(number: signal.Signals, arguments: list[str], code: int) -> None:
    """A signal that comes before the server has handlers ends it without a traceback."""
    ended = signalled_while_importing(number, arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


def test_sighup_while_importing() -> None:
    """A server that is about to read its files anyway is not ended by who asks for it."""
    ended = signalled_while_importing(signal.SIGHUP, ["serve", "--help"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--tls-cert" in ended.stdout


def signalled_while_importing(
    number: signal.Signals, arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    program = f"""
import os, sys
from bilstm_server.__main__ import main

class Signal:
    def find_spec(self, name, *_):
        if name == "bilstm_server.cli.main":
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Signal())
sys.exit(main())
"""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
