"""Start, drain and stop: of a server in the test's loop whose engine stands at a gate, and of a
real `bilstm-server serve` process.
"""

from __future__ import annotations

import asyncio
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import settings, start_error, write_model
from engines import HANGS_AFTER_SECONDS, gated_server, until
from numpy.typing import NDArray

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.model.config import Output
from bilstm_server.testing import Event, ServerProcess, server_process

STARTED = (
    'grpc_server_started_total{grpc_method="Encode",'
    'grpc_service="bilstm.v1.EncoderService",grpc_type="unary"}'
)
COMMAND = Path(sys.executable).with_name("bilstm-server")
FREE_PORTS = ("--port", "0", "--metrics-port", "0", "--log-format", "json")

Array = NDArray[Any]
Judge = Callable[[Array], Array]  # the right states of a sequence, computed alone


@pytest.fixture(scope="module")
def judge(model_folder: Path) -> Judge:
    engine = Engine.load(model_folder, "cpu", "float32", "auto")

    def states(x: Array) -> Array:
        (output,) = engine.run([SequenceInput(x, frozenset({Output.STATES}))])
        return output.arrays[Output.STATES]

    return states


def sequence(seed: int, steps: int) -> Array:
    return np.random.default_rng(seed).standard_normal((steps, 5), np.float32)


def request(x: Array) -> pb.EncodeRequest:
    return pb.EncodeRequest(sequences=[tensors.encode(x)])


def is_right(reply: pb.EncodeResponse, x: Array, judge: Judge) -> bool:
    return np.allclose(tensors.decode(reply.encodings[0].states), judge(x), atol=1e-5)


# -- in the test's own loop -------------------------------------------------------------------


def started_calls(app: App) -> float:
    """How many Encode calls have been accepted (or refused) by the handler."""
    labels = {
        "grpc_type": "unary",
        "grpc_service": "bilstm.v1.EncoderService",
        "grpc_method": "Encode",
    }
    return app.metrics.registry.get_sample_value("grpc_server_started_total", labels) or 0.0


async def started(app: App, calls: int) -> None:
    """Wait until that many Encode calls have been accepted (or refused) by the handler."""
    await until(lambda: started_calls(app) == calls)


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel)


async def ended(call: Any) -> pb.EncodeResponse | grpc.StatusCode:
    """The reply of a call, or the code it failed with."""
    try:
        reply: pb.EncodeResponse = await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return reply


async def test_drain_finishes_what_was_accepted(model_folder: Path, judge: Judge) -> None:
    """Everyone accepted before the drain gets their own right result, and everyone who comes
    during it is UNAVAILABLE."""
    limits = settings(model=[("small", model_folder)], max_batch_sequences=3)
    inputs = [sequence(seed, 5) for seed in range(20)]
    async with gated_server(limits) as (app, gated), connected(app) as stub:
        accepted = [asyncio.create_task(ended(stub.Encode(request(x)))) for x in inputs]
        await started(app, len(inputs))
        draining = asyncio.create_task(app.drain())
        await asyncio.sleep(0)
        late = await asyncio.gather(*(ended(stub.Encode(request(x))) for x in inputs))
        assert late == [grpc.StatusCode.UNAVAILABLE] * len(inputs)
        assert not draining.done()
        gated.open()
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            replies = await asyncio.gather(*accepted)
            assert await draining
    for reply, x in zip(replies, inputs, strict=True):
        assert isinstance(reply, pb.EncodeResponse)
        assert is_right(reply, x, judge)


@pytest.mark.parametrize("seed", range(5))
async def test_drain_among_arrivals(model_folder: Path, judge: Judge, seed: int) -> None:
    """However calls and a drain interleave, each call ends with its own right result or as
    UNAVAILABLE, and those that were there before the drain with their results."""
    inputs = [sequence(100 * seed + n, 1 + n % 7) for n in range(60)]
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") for _ in range(3)]
        stubs: list[Any] = [encoder_pb2_grpc.EncoderServiceStub(c) for c in channels]
        await asyncio.gather(*(stub.Encode(request(inputs[0])) for stub in stubs))
        calls: list[asyncio.Task[pb.EncodeResponse | grpc.StatusCode]] = []
        for number, x in enumerate(inputs):
            calls.append(asyncio.create_task(ended(stubs[number % 3].Encode(request(x)))))
            if number == 5:
                await until(lambda: started_calls(app) > len(stubs))
            if number == 10 * (seed + 1):
                accepted = started_calls(app) - len(stubs)
                draining = asyncio.create_task(app.drain())
            if number % (seed + 2) == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            outcomes = await asyncio.gather(*calls)
            await draining
        for channel in channels:
            await channel.close()
    codes = [outcome for outcome in outcomes if isinstance(outcome, grpc.StatusCode)]
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}
    assert len(outcomes) - len(codes) >= accepted
    for outcome, x in zip(outcomes, inputs, strict=True):
        assert isinstance(outcome, grpc.StatusCode) or is_right(outcome, x, judge)


async def test_drain_timeout(model_folder: Path) -> None:
    """What does not finish within the drain timeout is ended, and the drain is over."""
    limits = settings(
        model=[("small", model_folder)], max_batch_sequences=1, drain_timeout_seconds=0.05
    )
    async with gated_server(limits) as (app, gated), connected(app) as stub:
        calls = [asyncio.create_task(ended(stub.Encode(request(sequence(n, 3))))) for n in range(4)]
        await started(app, len(calls))
        await gated.engines["small"].arrival()
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            assert not await app.drain()  # while the gate is still closed
            codes = await asyncio.gather(*calls)
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert gated.engines["small"].batches == [[3]]  # nobody waited for the rest any more


async def test_drain_of_an_idle_server_needs_no_time(model_folder: Path) -> None:
    """Where nothing was accepted, a drain timeout of zero cuts nothing off."""
    limits = settings(model=[("small", model_folder)], drain_timeout_seconds=0)
    async with App(limits) as app:
        await app.load()
        assert await app.drain()


async def test_drain_delay_goes_on_serving(model_folder: Path, judge: Judge) -> None:
    """Within the drain delay, requests are still served."""
    x = sequence(0, 5)
    limits = settings(model=[("small", model_folder)], drain_delay_seconds=3600)
    async with App(limits) as app:
        await app.load()
        draining = asyncio.create_task(app.drain())
        await asyncio.sleep(0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
            assert is_right(await stub.Encode(request(x)), x, judge)
        assert not draining.done()
        draining.cancel()


# -- a process of its own ---------------------------------------------------------------------


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


def test_sighup_drains(model_folder: Path, judge: Judge) -> None:
    """SIGHUP, as a terminal that is closed sends it, loses nothing that was accepted, and is
    told."""
    inputs = [sequence(seed, 200) for seed in range(40)]
    options = ("--model", f"small={model_folder}", "--max-batch-sequences", 2)
    with serving(*options) as (process, channel):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        calls = [stub.Encode.future(request(x), timeout=HANGS_AFTER_SECONDS) for x in inputs]
        await_started(process, len(calls))
        process.send(signal.SIGHUP)
        replies = [call.result() for call in calls]
        assert process.wait() == 0
    assert all(is_right(reply, x, judge) for reply, x in zip(replies, inputs, strict=True))
    assert process.wait_for("draining")["signal"] == "SIGHUP"
    assert last_events(process, 1) == ["drained"]


def test_nohup_ignores_sighup(model_folder: Path) -> None:
    """Where SIGHUP is ignored, as nohup has it, it stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = ServerProcess(f"--model=small={model_folder}")
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        process.wait_for("ready")
        process.send(signal.SIGHUP)
        assert process.stop() == 0
        assert process.wait_for("draining")["signal"] == "SIGTERM"
    finally:
        process.kill()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_second_signal_stops_at_once(model_folder: Path, second: signal.Signals) -> None:
    """A second signal ends the process without finishing what waits, and its exit code is 1."""
    steps = 2000
    model = ("--model", f"small={model_folder}", "--kernel=reference")  # the slowest
    options = (*model, "--max-batch-sequences", 1)
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
    limits = [f"--max-{of}-tokens={steps}" for of in ("sequence", "batch", "queue")]
    options = (
        f"--model=deep={tmp_path}/deep",
        f"--drain-timeout-seconds={timeout}",
        "--kernel=reference",  # the slowest
        *limits,
    )
    with serving(*options) as (process, channel):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        call = stub.Encode.future(request(np.zeros((steps, 5), np.float32)), timeout=600)
        await_started(process, 1)
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
    ("number", "code"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)
def test_signal_while_importing(number: signal.Signals, code: int) -> None:
    """A signal that comes before the server has handlers ends it without a traceback."""
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
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


def failing(*arguments: object) -> str:
    """Why a server says that it can't start."""
    ended = subprocess.run(
        [str(COMMAND), "serve", *FREE_PORTS, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_SECONDS,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    return start_error(ended.stderr)


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_port_in_use(model_folder: Path, option: str) -> None:
    """A port that another has gives one clear line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = failing("--model", f"small={model_folder}", option, port)
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line


def broken(model_folder: Path, folder: Path, fault: str) -> list[tuple[str, Path]]:
    """Models of which one can't be served."""
    shutil.copytree(model_folder, folder)
    if fault == "no folder":
        shutil.rmtree(folder)
    elif fault == "no weights":
        (folder / "model.safetensors").unlink()
    elif fault == "torn weights":
        (folder / "model.safetensors").write_bytes(b"\x08")
    elif fault == "torn config":
        (folder / "config.json").write_text('{"input_size": ')
    elif fault == "twice":
        return [("bad", folder), ("bad", folder)]
    return [("small", model_folder), ("bad", folder)]


FAULTS = ["no folder", "no weights", "torn weights", "torn config", "twice"]


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_model_folder(model_folder: Path, tmp_path: Path, fault: str) -> None:
    """A model that can't be served gives one clear line that names it, and exit code 1."""
    models = broken(model_folder, tmp_path / "bad", fault)
    line = failing(*(f"--model={name}={folder}" for name, folder in models))
    assert "bad" in line
