"""A server whose engine hangs, whose device is lost, or whose event loop stands still: it says so,
its callers are told, its process ends with a code of its own, and the next one serves.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.faults.faulty import HANGS, LOSES, STALLS
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.errors import EngineHung
from bilstm_server.process.ending import FAILED_CODE
from bilstm_server.testing import Event, ServerProcess
from tests.lifecycle.calls import request, sequence
from tests.support.engines import gated_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
BOUND = 1  # second
PROBES = {"/livez": 503, "/healthz": 503, "/readyz": 503}


@contextmanager
def faulty(model_folder: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server in which sequences of certain lengths are faults."""
    process = ServerProcess(
        f"--model=small={model_folder}",
        f"--hang-seconds={BOUND}",
        f"--stall-seconds={BOUND}",
        *flags,
        module="benchmarks.faults.faulty",
    )
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.kill()


def calls_with(event: Event, thread: str) -> list[str]:
    """Where a thread stood, as an event has it."""
    (calls,) = (stack["calls"] for stack in event["threads"] if stack["thread"] == thread)
    return [call.rpartition(" in ")[2] for call in calls]


@contextmanager
def stubs(process: ServerProcess) -> Iterator[tuple[Any, Any]]:
    """Of the encoder, and of health."""
    with grpc.insecure_channel(process.target) as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel), health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize(("fault", "last"), [(HANGS, "hangs"), (LOSES, "device lost")])
def test_an_engine_that_fails_ends_the_server(model_folder: Path, fault: int, last: str) -> None:
    """Whoever watches its health hears of it; calls and streams that wait end as UNAVAILABLE, the
    one that brought it too; the log's last event says what it was, and of a hang where each thread
    stands."""
    with faulty(model_folder) as process, stubs(process) as (encoder, health):
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=HANGS_AFTER_SECONDS)
        assert next(watch).status == SERVING
        messages: SimpleQueue[pb.EncodeStreamRequest | None] = SimpleQueue()
        messages.put(pb.EncodeStreamRequest(options=pb.StreamOptions()))
        stream = encoder.EncodeStream(iter(messages.get, None), timeout=HANGS_AFTER_SECONDS)
        next(stream)
        steps = tensors.encode(sequence(0, fault))
        messages.put(
            pb.EncodeStreamRequest(chunks=[pb.SequenceChunk(id=1, steps=steps, last=True)])
        )
        calls = [
            encoder.Encode.future(request(sequence(0, steps)), timeout=HANGS_AFTER_SECONDS)
            for steps in (fault, 3)
        ]
        assert next(watch).status == NOT_SERVING
        assert calls[0].code() is UNAVAILABLE
        assert calls[1].code() in (UNAVAILABLE, grpc.StatusCode.OK)
        for endless in (watch, stream):
            with pytest.raises(grpc.RpcError):
                next(endless)
            assert endless.code() is UNAVAILABLE
        messages.put(None)
        assert process.wait() == FAILED_CODE
    event = process.log[-1]
    assert (event["event"], event["level"]) == (last, "error")
    if fault == HANGS:
        assert (event["what"], event["model"]) == ("a batch", "small")
        assert event["tokens"] >= HANGS
        assert "compute" in calls_with(event, "compute_0")
        assert "_bark" in calls_with(event, "watchdog")
        assert event["seconds"] > BOUND


def test_a_loop_that_stalls_ends_the_server(model_folder: Path) -> None:
    """Nothing can be told by such a loop: the process ends, and connections with it."""
    with faulty(model_folder) as process, stubs(process) as (encoder, _):
        call = encoder.Encode.future(request(sequence(0, STALLS)), timeout=HANGS_AFTER_SECONDS)
        assert process.wait() == FAILED_CODE
        assert call.code() is UNAVAILABLE
    event = process.log[-1]
    assert (event["event"], event["what"]) == ("hangs", "a turn of the event loop")
    assert "submit" in calls_with(event, "MainThread")


@pytest.mark.parametrize("fault", [HANGS, LOSES, STALLS])
def test_the_next_process_serves(model_folder: Path, fault: int) -> None:
    """A supervisor that starts anew what ended with that code is all that it needs: on the same
    port, callers that wait for a server have their results."""
    with faulty(model_folder) as process, stubs(process) as (encoder, _):
        port = process.wait_for("listening")["port"]
        failed = encoder.Encode.future(request(sequence(0, fault)), timeout=HANGS_AFTER_SECONDS)
        assert failed.code() is UNAVAILABLE
        code = process.wait()
        assert code == FAILED_CODE
        with faulty(model_folder, f"--port={port}"):
            reply = encoder.Encode(
                request(sequence(0, 7)), timeout=HANGS_AFTER_SECONDS, wait_for_ready=True
            )
    assert tensors.decode(reply.encodings[0].states).shape[0] == 7


def test_compose_starts_it_anew() -> None:
    """Docker compose is such a supervisor, whatever the code is."""
    compose = Path(__file__).parents[2] / "docker-compose.yml"
    server = yaml.safe_load(compose.read_text("utf-8"))["services"]["server"]
    assert server["restart"] == "unless-stopped"


def test_a_hang_while_it_drains_ends_the_server(model_folder: Path) -> None:
    """A drain that waits for an engine that hangs is not waited for."""
    flags = ("--drain-timeout-seconds=3600", "--hang-seconds=2")
    with faulty(model_folder, *flags) as process, stubs(process) as (encoder, _):
        call = encoder.Encode.future(request(sequence(0, HANGS)), timeout=HANGS_AFTER_SECONDS)
        while process.metrics()["bilstm_calls"] < 1:
            pass
        process.send(signal.SIGTERM)
        process.wait_for("draining")
        assert process.wait() == FAILED_CODE
        assert call.code() is UNAVAILABLE


def test_a_process_that_was_stopped_goes_on(model_folder: Path) -> None:
    """Stopped for longer than its bounds, with a call in its engine or not, it serves on."""
    with faulty(model_folder, "--hang-seconds=2", "--stall-seconds=2") as process:
        with stubs(process) as (encoder, _):
            for steps in (3, 5):
                process.send(signal.SIGSTOP)
                call = encoder.Encode.future(request(sequence(0, steps)), timeout=600)
                time.sleep(3)  # what is claimed is claimed of time
                process.send(signal.SIGCONT)
                assert call.code() is grpc.StatusCode.OK
        assert [event["event"] for event in process.log][-1] == "ready"
        assert process.stop() == 0


def test_bounds_of_zero_wait(model_folder: Path) -> None:
    """Without bounds a hang and a stall are waited for."""
    flags = ("--hang-seconds=0", "--stall-seconds=0")
    with faulty(model_folder, *flags) as process, stubs(process) as (encoder, _):
        hanging = encoder.Encode.future(request(sequence(0, HANGS)), timeout=600)
        while process.metrics()["bilstm_calls"] < 1:
            pass
        waiting = encoder.Encode.future(request(sequence(0, 3)), timeout=3 * BOUND)
        assert waiting.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not hanging.done()
        assert process.log[-1]["event"] == "ready"


def probe(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=HANGS_AFTER_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()
    finally:
        connection.close()


async def test_a_hang_is_told_to_probes_and_to_health(model_folder: Path) -> None:
    """Once it is known, the server is neither alive nor ready, and refuses what comes."""
    limits = settings(model=[("small", model_folder)])
    async with gated_server(limits) as (app, gated):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            encoder: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
            health: Any = health_pb2_grpc.HealthStub(channel)
            waiting = asyncio.ensure_future(encoder.Encode(request(sequence(0, 3))))
            await gated.engines["small"].arrival()
            assert app.progress[0].work is not None
            app.report_hang()
            with pytest.raises(EngineHung):
                await asyncio.wait_for(app.failed(), HANGS_AFTER_SECONDS)
            for call in (waiting, encoder.Encode(request(sequence(0, 4)))):
                with pytest.raises(grpc.aio.AioRpcError, match="engine does not return") as told:
                    await call
                assert told.value.code() is UNAVAILABLE
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            answers = {p: await asyncio.to_thread(probe, app.metrics_port, p) for p in PROBES}
            assert answers == {path: (code, "hangs") for path, code in PROBES.items()}
        gated.open()
