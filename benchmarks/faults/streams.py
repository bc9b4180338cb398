"""Streams that make no progress: what they keep from others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import Client

from .attacked import Attacked, attacked
from .findings import Finding
from .messages import STREAM_PATH

NAME = "streams"
_MB = 2**20
_IDLE_SECONDS = 5.0
_MOST_SECONDS = _IDLE_SECONDS + 5
_PATIENCE_SECONDS = 40.0  # of those who wait beside them
_WIDTH = 12  # of the model that ships: with its states, a step takes 560 bytes
_CHUNK_STEPS = 1_100
_HALF = 100  # chunks: 62 MB of the 67 that a stream may have
_UNREAD_STEPS, _UNREAD = 16_000, 40  # sequences of 9 MB, more than any stream may have
_SHORT = 20  # sequences, of the one who waits
_SILENT = 16

Messages = Iterator[bytes]
Stalling = Callable[[threading.Event], Messages]  # what is sent, until the event


def trial() -> Iterator[Finding]:
    yield from _beside(
        "two stalled streams: one half-sent, one unread",
        [_half_sent, _unread],
        max_stream_bytes=64 * _MB,
        max_streams_bytes=128 * _MB,
    )
    yield from _beside(
        f"{_SILENT} silent streams, as many as may be open",
        [_silent] * _SILENT,
        max_streams=_SILENT,
    )


def _beside(sent: str, stalled: list[Stalling], **limits: int) -> Iterator[Finding]:
    with (
        attacked(stream_idle_seconds=_IDLE_SECONDS, **limits) as server,
        ExitStack() as held,
    ):
        over = threading.Event()
        held.callback(over.set)
        for number, messages in enumerate(stalled):
            _stall(server, messages(over), number, held)
        time.sleep(3.0)  # by then nothing of them moves any more
        seconds = _seconds_of_another(server)
        measured = "until another client's short sequences were done"
        yield Finding(NAME, sent, measured, seconds, "s", _MOST_SECONDS)
        yield Finding(NAME, sent, "resident memory grew by", server.grown, "MB")


def _stall(server: Attacked, messages: Messages, number: int, held: ExitStack) -> None:
    """A stream whose client sends these, keeps it open, and takes no reply."""
    options = [("grpc.use_local_subchannel_pool", 1), ("caller", number)]
    channel = held.enter_context(grpc.insecure_channel(server.target, options=options))
    call: Any = channel.stream_stream(STREAM_PATH)
    held.callback(call(messages, timeout=2 * _PATIENCE_SECONDS).cancel)


def _silent(over: threading.Event) -> Messages:
    yield pb.EncodeStreamRequest(options=pb.StreamOptions()).SerializeToString()
    over.wait(2 * _PATIENCE_SECONDS)


def _half_sent(over: threading.Event) -> Messages:
    yield pb.EncodeStreamRequest(options=pb.StreamOptions()).SerializeToString()
    for _ in range(_HALF):
        yield _chunk(1, _CHUNK_STEPS, last=False)
    over.wait(2 * _PATIENCE_SECONDS)


def _unread(over: threading.Event) -> Messages:
    yield pb.EncodeStreamRequest(options=pb.StreamOptions()).SerializeToString()
    for number in range(1, _UNREAD + 1):
        yield _chunk(number, _UNREAD_STEPS, last=True)
    over.wait(2 * _PATIENCE_SECONDS)


def _chunk(number: int, steps: int, last: bool) -> bytes:
    x = np.zeros((steps, _WIDTH), np.float32)
    chunk = pb.SequenceChunk(id=number, steps=tensors.encode(x), last=last)
    return pb.EncodeStreamRequest(chunks=[chunk]).SerializeToString()


def _seconds_of_another(server: Attacked) -> float:
    """It tries again when it is refused, and gives up after a time that is no limit's."""
    done = threading.Event()
    x = np.zeros((8, _WIDTH), np.float32)

    def run() -> None:
        with Client(server.target) as client:
            while not done.is_set():
                try:
                    if len(list(client.encode_stream([x] * _SHORT))) == _SHORT:
                        done.set()
                except Exception:  # refused, or ended: it may come again
                    time.sleep(0.2)

    started_at = time.perf_counter()
    threading.Thread(target=run, daemon=True).start()
    done.wait(_PATIENCE_SECONDS)
    done.set()
    return time.perf_counter() - started_at
