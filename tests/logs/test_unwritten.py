"""Servers and commands whose log can't be written, or that nobody reads, do their work all the
same.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.logs import configure_logs
from tests.logs.pipes import Pipe
from tests.support.engines import gated_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

COMMAND = str(Path(sys.executable).with_name("bilstm-server"))
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
STARTED = (
    'grpc_server_started_total{grpc_method="Encode",'
    'grpc_service="bilstm.v1.EncoderService",grpc_type="unary"}'
)


# -- a server in the test's loop -----------------------------------------------------------------


@pytest.mark.parametrize("end", ["nobody reads", "closed"])
async def test_failures_are_still_internal(
    end: str, model_folder: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a log that can't be written each failing call is INTERNAL, with its id, and no call
    waits for the log."""
    monkeypatch.setattr(sys, "stderr", pipe.stream)
    configuration = structlog.get_config()
    if end == "closed":
        os.close(pipe.read_end)

    def fail(staged: object) -> None:
        raise RuntimeError("the cause")

    try:
        configure_logs("json")
        async with (
            gated_server(settings(model=[("small", model_folder)])) as (app, gated),
            grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel,
        ):
            gated.engines[model_folder.name].fault = fail
            gated.open()
            stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
            request = pb.EncodeRequest(sequences=[tensors.encode(np.ones((3, 5), np.float32))])
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                for _ in range(400):
                    with pytest.raises(grpc.aio.AioRpcError, match="internal error") as told:
                        await stub.Encode(request)
                    assert told.value.code() is grpc.StatusCode.INTERNAL
                await until(lambda: pipe.stream.dropped_lines > 0)
    finally:
        structlog.configure(**configuration)


def test_dropped_lines_are_an_event(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log of JSON the line that says how many were dropped is JSON too; and a value is cut."""
    monkeypatch.setattr(sys, "stderr", pipe.stream)
    configuration = structlog.get_config()
    try:
        configure_logs("json")
        log = structlog.get_logger()
        for _ in range(200):
            log.info("something", value="x" * 1_000_000)
        dropped = pipe.stream.dropped_lines
        events = [json.loads(line) for line in pipe.read()]
    finally:
        structlog.configure(**configuration)
    assert dropped > 0
    assert (events[-1]["event"], events[-1]["lines"]) == ("log lines dropped", dropped)
    assert len(events[0]["value"]) == 2_001


class Unspeakable:
    def __repr__(self) -> str:
        raise RecursionError


def test_what_can_not_be_rendered(capsys: pytest.CaptureFixture[str]) -> None:
    """An event that can't be rendered raises nothing where it is logged."""
    configuration = structlog.get_config()
    try:
        configure_logs("json")
        structlog.get_logger().info("something", value=Unspeakable())
    finally:
        structlog.configure(**configuration)
    assert capsys.readouterr().err == "an event could not be written: RecursionError\n"


@pytest.mark.parametrize("value", ["\x1b[2J", "a\nb", "\udcff"])
def test_a_value_moves_no_cursor(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a terminal would obey is written as an escape."""
    configuration = structlog.get_config()
    try:
        configure_logs("console")
        structlog.get_logger().info("something", value=value)
    finally:
        structlog.configure(**configuration)
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(value)[1:-1] in line


# -- whole commands ------------------------------------------------------------------------------


def read_events(stderr: IO[str]) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in stderr)


def await_started(metrics_port: int, calls: int) -> None:
    for _ in range(10_000):
        with urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as response:
            if f"{STARTED} {calls:.1f}".encode() in response.read():
                return
    raise AssertionError(f"{calls} calls never started")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_drain_with_a_closed_pipe(model_folder: Path, number: signal.Signals) -> None:
    """A server whose log's pipe is closed finishes what is in flight, and exits with 0."""
    flags = [f"--model=small={model_folder}", "--port=0", "--metrics-port=0", "--log-format=json"]
    command = [COMMAND, "serve", *flags, "--max-batch-sequences=1", "--max-queue-delay=0.1"]
    x = np.ones((2000, 5), np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(x)] * 8)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            events = read_events(process.stderr)
            listening = next(event for event in events if event["event"] == "listening")
            next(event for event in events if event["event"] == "ready")
            process.stderr.close()
            with grpc.insecure_channel(f"127.0.0.1:{listening['port']}") as channel:
                stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
                calls = [stub.Encode.future(request, timeout=HANGS_AFTER_SECONDS) for _ in range(6)]
                await_started(listening["metrics_port"], len(calls))
                process.send_signal(number)
                assert all(len(call.result().encodings) == 8 for call in calls)
            assert process.wait(HANGS_AFTER_SECONDS) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&- >&- <&-"])
def test_start_without_a_log(redirection: str, model_folder: Path) -> None:
    """A server starts and drains, whatever its standard error is."""
    serve = f"{COMMAND} serve --model=small={model_folder} --host=unix:$0 --metrics-port=0"
    program = (
        f"{serve} {redirection} & while ! test -S $0; do sleep 0.1; done; kill -TERM $!; wait $!"
    )
    path = str(model_folder.parent / f"{abs(hash(redirection))}.sock")
    done = subprocess.run(["sh", "-c", program, path], timeout=HANGS_AFTER_SECONDS)
    assert done.returncode == 0


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """A pipe without room, that nobody reads."""
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    try:
        while True:
            os.write(ends[1], b"x" * 1024)
    except BlockingIOError:
        os.set_blocking(ends[1], True)
    yield ends[1]
    for end in ends:
        os.close(end)


def test_a_whole_life_with_a_full_pipe(full_pipe: int, model_folder: Path) -> None:
    """A server whose log nobody reads at all starts, serves, drains, and ends."""
    path = model_folder.parent / "full.sock"
    flags = f"--model=small={model_folder}", f"--host=unix:{path}", "--metrics-port=0"
    with subprocess.Popen([COMMAND, "serve", *flags], stderr=full_pipe) as process:
        try:
            with grpc.insecure_channel(f"unix:{path}") as channel:
                stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
                wait = {"timeout": HANGS_AFTER_SECONDS, "wait_for_ready": True}
                health: Any = health_pb2_grpc.HealthStub(channel)
                for status in health.Watch(health_pb2.HealthCheckRequest(), **wait):
                    if status.status == status.SERVING:
                        break
                assert len(stub.ListModels(pb.ListModelsRequest(), **wait).models) == 1
            process.terminate()
            assert process.wait(HANGS_AFTER_SECONDS) == 0
        finally:
            process.kill()


def test_lost_lines_are_counted(model_folder: Path) -> None:
    """A scrape says how many lines of the log are lost."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = model_folder.parent / "counted.sock"
    flags = f"--model=small={model_folder}", f"--host=unix:{path}", f"--metrics-port={port}"
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen([COMMAND, "serve", *flags], stderr=full) as process,
    ):
        try:
            with grpc.insecure_channel(f"unix:{path}") as channel:
                stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
                wait = {"timeout": HANGS_AFTER_SECONDS, "wait_for_ready": True}
                with suppress(grpc.RpcError):  # it may still load
                    stub.ListModels(pb.ListModelsRequest(), **wait)
            with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                lines = response.read().decode().splitlines()
            name = "bilstm_log_lines_dropped_total "
            (value,) = (line.removeprefix(name) for line in lines if line.startswith(name))
            assert float(value) >= 1
        finally:
            process.kill()


def test_the_end_does_not_wait_for_a_reader(full_pipe: int) -> None:
    """A command that fails ends, though nobody reads why."""
    command = [COMMAND, "serve", "--port=many"]
    assert subprocess.run(command, stderr=full_pipe, timeout=HANGS_AFTER_SECONDS).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "redirection", "code"),
    [
        ("compile", ">/dev/full", 1),
        ("import --help", ">/dev/full", 1),
        ("frobnicate", "2>/dev/full", 2),
        ("serve --port=many", "2>/dev/full", 1),
    ],
)
def test_commands_end_without_a_traceback(arguments: str, redirection: str, code: int) -> None:
    """A command that can't print says so in a line, or keeps still."""
    done = subprocess.run(
        f"{COMMAND} {arguments} {redirection}",
        shell=True,
        env=BUFFERED,
        stderr=subprocess.PIPE,
        text=True,
        timeout=HANGS_AFTER_SECONDS,
    )
    assert done.returncode == code
    words = "bilstm-server: can't write to standard output: No space left on device\n"
    assert done.stderr == ("" if "2>" in redirection else words)
