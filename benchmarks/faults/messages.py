"""Messages that hold the event loop: each kind, to each method, while others wait."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import torch

from bilstm_server.model import PlainConfig, SequenceEncoder, save_model

from .attacked import Attacked, attacked
from .findings import Finding
from .kinds import ANY, ENCODE, OPENING, STREAM, WIDE, Make
from .prober import ENCODE as ENCODE_PATH
from .prober import HEALTH, Prober, probing

NAME = "messages"
_LIMIT = 50.0  # ms
_TRIES = 3
_TIMEOUT_SECONDS = 30.0
_SECONDS = 150.0  # for all
_SHIPPED = "--model=japanese_vowels=server/bilstm_server/models/japanese_vowels"
_SERVICE = "/bilstm.v1.EncoderService"
STREAM_PATH = f"{_SERVICE}/EncodeStream"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_UNARY = (ENCODE_PATH, f"{_SERVICE}/ListModels", f"{_SERVICE}/GetModel", HEALTH)
_STREAMING = (STREAM_PATH, _REFLECTION)


def trial() -> Iterator[Finding]:
    ends_at = time.perf_counter() + _SECONDS
    with (
        tempfile.TemporaryDirectory() as folder,
        attacked(_SHIPPED, _wide_model(Path(folder))) as server,
        probing(server.target) as prober,
    ):
        time.sleep(3.0)
        yield _finding("nothing", "longest wait of a small call", prober.longest())
        with grpc.insecure_channel(server.target, options=_OPTIONS) as channel:
            attack = _Attack(server, channel, prober)
            for kinds, paths in (
                (ANY, (*_UNARY, *_STREAMING)),
                (ENCODE, (ENCODE_PATH,)),
                (STREAM, (STREAM_PATH,)),
            ):
                yield from attack.with_each(kinds, paths, ends_at)


_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def _wide_model(folder: Path) -> str:
    torch.manual_seed(0)
    save_model(
        SequenceEncoder(PlainConfig(input_size=WIDE, hidden_size=16).graph()), folder / "wide"
    )
    return f"--model=wide={folder / 'wide'}"


def _finding(sent: str, measured: str, figure: float) -> Finding:
    return Finding(NAME, sent, measured, figure, "ms", _LIMIT)


class _Attack:
    def __init__(self, server: Attacked, channel: grpc.Channel, prober: Prober):
        self._server = server
        self._channel = channel
        self._prober = prober

    def with_each(
        self, kinds: Mapping[str, Make], paths: Sequence[str], ends_at: float
    ) -> Iterator[Finding]:
        """The worst of all methods, for each kind."""
        for kind, make in kinds.items():
            if time.perf_counter() > ends_at:
                yield _finding(kind, "there was no time left to try it", float("nan"))
                continue
            message = make()
            waits = {path: self._least_wait(path, kind, message) for path in paths}
            worst = max(waits, key=lambda path: waits[path])
            yield _finding(kind, f"longest wait of a small call ({_short(worst)})", waits[worst])

    def _least_wait(self, path: str, kind: str, message: bytes) -> float:
        """A miss that may be the machine's is tried again: the best of up to three."""
        least = self._wait(path, kind, message)
        for _ in range(_TRIES - 1):
            if not _finding(kind, path, least).nearly:
                break
            least = min(least, self._wait(path, kind, message))
        return least

    def _wait(self, path: str, kind: str, message: bytes) -> float:
        self._prober.waits()
        with suppress(grpc.RpcError):
            if path in _UNARY:
                call: Any = self._channel.unary_unary(path)
                call(message, timeout=_TIMEOUT_SECONDS)
            else:
                messages = (OPENING, message) if kind in STREAM else (message,)
                call = self._channel.stream_stream(path)
                for _ in call(iter(messages), timeout=_TIMEOUT_SECONDS):
                    pass
        return self._prober.longest()


def _short(path: str) -> str:
    return path.rpartition("/")[2]
