"""Records what real clients send, for `traffic`: every method, named inputs, ids, initial states,
streams, live ones, and calls that are cancelled.

    python -m benchmarks.faults.fuzz.recording

What they send depends on the moment, so what was recorded is kept in the project, and is recorded
anew when the wire has grown.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_client import Client, Live
from bilstm_server.testing import server_process

from ..wire import connect
from . import traffic
from .traffic import IDS, WIDTH, served_models

_MOST_BYTES = 48 * 1024  # of one connection, below the first window of HTTP/2
Session = Callable[[str], None]  # what one client does at an address


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        server_process(*served_models(Path(folder))) as server,
    ):
        recordings = [_recorded(server.target, session) for session in _SESSIONS]
    traffic.write([connection for recording in recordings for connection in recording])
    calls = traffic.recorded().calls
    print(f"{len(calls)} calls over {len(traffic.recorded().connections)} connections")


def _recorded(target: str, session: Session) -> list[bytes]:
    """What one client has sent, over each of its connections."""
    with _proxy(target) as (address, sent):
        session(address)
    return [bytes(data) for data in sent if data and len(data) <= _MOST_BYTES]


@contextmanager
def _proxy(target: str) -> Iterator[tuple[str, list[bytearray]]]:
    """An address that leads to the target, and what comes over each connection to it."""
    sent: list[bytearray] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):  # once it is closed
                while True:
                    client, _ = listener.accept()
                    server = connect(target)
                    server.settimeout(None)
                    sent.append(bytearray())
                    for source, sink, kept in ((client, server, sent[-1]), (server, client, None)):
                        threading.Thread(
                            target=_copy, args=(source, sink, kept), daemon=True
                        ).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", sent
        listener.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if kept is not None:
                kept += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _floats(steps: int, width: int = 12, seed: int = 0) -> Any:
    return np.random.default_rng((seed, steps)).standard_normal((steps, width), np.float32)


def _sentence(steps: int) -> dict[str, Any]:
    return {
        "tokens": np.random.default_rng(steps).integers(1, IDS, steps),
        "features": _floats(steps, WIDTH),
    }


def _models(client: Client) -> None:
    client.list_models()
    client.get_model("tagger")


def _bad(client: Client) -> None:
    with suppress(Exception):
        client.encode(_floats(2, 11))


def _state(client: Client) -> None:
    state = client.encode(_floats(4), outputs=["state"])["state"]
    client.encode(_floats(4), initial_state=state, timeout_seconds=5.0)


def _live(client: Client) -> None:
    chunks = iter([_floats(5, seed=seed) for seed in range(4)])
    list(client.encode_chunks([chunks], live=Live(4, 2)))


def _live_sentences(client: Client) -> None:
    sentences = iter([_sentence(3), _sentence(2)])
    list(client.encode_chunks([sentences], live=Live(2), model="tagger"))


# Each has a connection of its own, so that one that is damaged brings little work besides.
_CLIENTS: tuple[Callable[[Client], object], ...] = (
    _models,
    _bad,
    _state,
    _live,
    _live_sentences,
    lambda client: client.encode(_floats(7), outputs=["states", "final", "mean", "max", "logits"]),
    lambda client: client.encode(_floats(3).astype(np.float16), output_data_type="bfloat16"),
    lambda client: client.encode_batch([_floats(steps) for steps in (1, 5, 2)], outputs=["final"]),
    lambda client: client.encode_batch(
        [_sentence(3), _sentence(6)], model="tagger", outputs=["labels", "logits"]
    ),
    lambda client: list(
        client.encode_stream([_floats(steps) for steps in (3, 1, 8)], outputs=["mean", "logits"])
    ),
    lambda client: list(
        client.encode_stream([_sentence(4), _sentence(2)], model="tagger", ordered=False)
    ),
    lambda client: list(client.encode_stream([iter([_floats(2), _floats(3)]), _floats(1)])),
)


def _session_of(client_does: Callable[[Client], object]) -> Session:
    def session(target: str) -> None:
        with Client(target) as client:
            client_does(client)

    return session


def _cancelled(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        opening = pb.EncodeStreamRequest(options=pb.StreamOptions())
        unended = threading.Event()

        def requests() -> Iterator[pb.EncodeStreamRequest]:
            yield opening
            unended.wait(60)

        stream = stub.EncodeStream(requests())
        next(stream)
        stream.cancel()
        unended.set()
        call = stub.Encode.future(pb.EncodeRequest(), timeout=5)
        call.cancel()
        time.sleep(0.2)  # for what is sent by gRPC's threads


def _beside(target: str) -> None:
    """The services beside the encoder's."""
    with grpc.insecure_channel(target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest(service="bilstm.v1.EncoderService"))
        watch = health.Watch(health_pb2.HealthCheckRequest())
        next(watch)
        watch.cancel()
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest
        symbol = "bilstm.v1.EncoderService"
        questions = [asked(list_services=""), asked(file_containing_symbol=symbol)]
        list(reflection.ServerReflectionInfo(iter(questions)))


_SESSIONS: tuple[Session, ...] = (*map(_session_of, _CLIENTS), _cancelled, _beside)

if __name__ == "__main__":
    main()
