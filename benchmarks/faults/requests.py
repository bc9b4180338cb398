"""Bytes of requests before they are admitted: refused in the end, or never complete."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from .attacked import attacked, seconds_until
from .findings import Finding
from .kinds import LARGE, MB
from .prober import ENCODE, probing, served
from .wire import PatientConnection

NAME = "requests"
_MIB = 2**20
_WIDTH = 12  # of the model that ships
_BUDGET_MB = 128
_MOST_GROWN = 2 * _BUDGET_MB + 64.0  # a message is there twice while gRPC hands it over
_RECEIVE_SECONDS = 5.0
_MOST_SECONDS = 45.0  # that are waited for memory to come back
_CALL_SECONDS = 30.0
_BUDGETS = {
    "max_receive_bytes": _BUDGET_MB * _MIB,
    "receive_seconds": _RECEIVE_SECONDS,
}


def trial() -> Iterator[Finding]:
    yield from _refused(8, 63 * MB)  # whatever the limit is
    yield from _refused(40, LARGE)
    yield from _incomplete(40, LARGE)


def _message(size: int) -> bytes:
    """Of far more steps than a request may have."""
    x = np.zeros((size // (4 * _WIDTH), _WIDTH), np.float32)
    return pb.EncodeRequest(sequences=[tensors.encode(x)]).SerializeToString()


def _refused(callers: int, size: int) -> Iterator[Finding]:
    sent = f"{callers} calls of {size // MB} MB at once, refused in the end"
    message = _message(size)
    with attacked(**_BUDGETS) as server, probing(server.target) as prober:
        prober.waits()
        with server.peak() as grown, ThreadPoolExecutor(callers) as pool:
            target = server.target
            calls = [pool.submit(_call, target, message, number) for number in range(callers)]
            codes = [call.result() for call in calls]
        refused = sum(code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED") for code in codes)
        yield Finding(NAME, sent, "resident memory grew by", grown[0], "MB", _MOST_GROWN)
        yield Finding(NAME, sent, "of them refused with a reason", refused)
        yield from served(NAME, sent, prober.waits())


def _call(target: str, message: bytes, number: int) -> str:
    options = [("grpc.use_local_subchannel_pool", 1), ("caller", number)]
    options.append(("grpc.max_send_message_length", -1))
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            encode: Any = channel.unary_unary(ENCODE)
            encode(message, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def _incomplete(callers: int, size: int) -> Iterator[Finding]:
    sent = f"{callers} calls of {size // MB} MB without their last byte"
    message = _message(size)
    with (
        attacked(**_BUDGETS) as server,
        probing(server.target) as prober,
        ExitStack() as connected,
    ):
        prober.waits()
        attackers = [
            connected.enter_context(PatientConnection(server.target)) for _ in range(callers)
        ]
        with server.peak() as grown:
            _send_all(attackers, message)
        held = server.grown
        yield Finding(NAME, sent, "resident memory grew by", grown[0], "MB", _MOST_GROWN)
        yield from served(NAME, sent, prober.waits())
        seconds = seconds_until(lambda: server.grown < max(held / 4, 64), _MOST_SECONDS)
        most = _RECEIVE_SECONDS + 10
        yield Finding(NAME, sent, "until most of that was given back", seconds, "s", most)


def _send_all(attackers: list[PatientConnection], message: bytes) -> None:
    """Each in a thread, and as much as the server takes."""
    threads = []
    for attacker in attackers:

        def send(attacker: PatientConnection = attacker) -> None:
            with suppress(Exception):  # the server may end it at any moment
                attacker.call(ENCODE, message, missing=1)

        threads.append(threading.Thread(target=send, daemon=True))
    for thread in threads:
        thread.start()
    until = time.perf_counter() + _CALL_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.perf_counter()))
