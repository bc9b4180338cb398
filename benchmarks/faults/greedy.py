"""One caller with 64 calls among nine with one each: what the nine keep of their equal shares, and
whether a priority that the one may not have changes it.

Its share is that of max-min fairness: a tenth of all that is computed, or all that it can ask for
where that is less. One that waits for each answer can be in every second batch at most, since the
next one is closed before its call has come back. With batches of four calls a tenth is what bounds
the nine, with batches of ten it is the way back and forth.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import torch

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.model import PlainConfig, SequenceEncoder, save_model

from .attacked import Attacked, attacked
from .findings import Finding

NAME = "greedy"
_WIDTH, _STEPS = 16, 400
_FEW_PLACES, _MANY_PLACES = 4, 10  # of a batch
_POLITE, _CALLS = 9, 64
_SECONDS, _WARM_UP_SECONDS = 15.0, 3.0
_LEAST_SHARE = 0.9
_GREEDY = "greedy"
_NAMES = (_GREEDY, *(f"polite-{number}" for number in range(_POLITE)))
_PAUSE_SECONDS = 0.1  # of a caller that is refused
_PRIORITY = ("bilstm-priority", "high")


def trial(seconds: float = _SECONDS) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        flags = _served(Path(folder))
        for places in (_FEW_PLACES, _MANY_PLACES):
            with attacked(
                *flags, max_batch_tokens=places * _STEPS, max_sequence_tokens=_STEPS
            ) as server:

                def run(
                    *headers: tuple[str, str], calls: int = _CALLS, of: Attacked = server
                ) -> _Calls:
                    return asyncio.run(_load(of, calls, headers, seconds))

                alike, greedy, urgent = run(calls=1), run(), run(_PRIORITY)
            sent = f"{_CALLS} calls by one, one by each of {_POLITE}; batches of {places}"
            yield from _findings(sent, alike, greedy, seconds)
            yield from _findings(f"{sent}; it asks for high", alike, urgent, seconds)


def _findings(sent: str, alike: _Calls, calls: _Calls, seconds: float) -> Iterator[Finding]:
    of_nine = [calls.answered[name] for name in _NAMES[1:]]
    share = min(calls.answered.total() / len(_NAMES), calls.batches / 2)
    least = min(of_nine) / share
    yield Finding(NAME, sent, "the least of the nine, of its share", least, least=_LEAST_SHARE)
    equal = alike.answered.total() / len(_NAMES)
    mean = sum(of_nine) / _POLITE
    yield Finding(NAME, sent, "the nine's mean, of what all have alike", mean / equal)
    yield Finding(NAME, sent, "calls/s, all alike", alike.answered.total() / seconds)
    yield Finding(NAME, sent, "calls/s", calls.answered.total() / seconds)
    yield Finding(NAME, sent, "refused, of the one", calls.refused[_GREEDY])
    of_nine_refused = calls.refused.total() - calls.refused[_GREEDY]
    yield Finding(NAME, sent, "refused, of the nine", of_nine_refused, most=0)


class _Calls(NamedTuple):
    """How many calls of each caller were answered, and refused, and in how many batches."""

    answered: Counter[str]
    refused: Counter[str]
    batches: float


def _served(folder: Path) -> list[str]:
    """A model of which two cores compute some hundred calls a second, and a token for each name."""
    torch.manual_seed(0)
    config = PlainConfig(input_size=_WIDTH, hidden_size=256, num_layers=2).graph()
    save_model(SequenceEncoder(config), folder / "model")
    tokens = folder / "tokens"
    tokens.write_text("".join(f"{name}: {_token(name)}\n" for name in _NAMES))
    return [f"--model=bench={folder / 'model'}", f"--tokens-file={tokens}"]


def _token(name: str) -> str:
    return f"{name}-".ljust(40, "x")


async def _load(
    server: Attacked, calls: int, headers: tuple[tuple[str, str], ...], seconds: float
) -> _Calls:
    """Each caller sends its next call when it has the answer to one; the first of them has so many
    in flight, and sends those headers. What is answered in the warm-up is not counted."""
    answered: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    begins_at = time.perf_counter() + _WARM_UP_SECONDS
    ends_at = begins_at + seconds
    x = np.random.default_rng(0).standard_normal((_STEPS, _WIDTH), np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(x)], outputs=[pb.OUTPUT_FINAL])

    async def call(name: str, channel: Any) -> None:
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        metadata = [("authorization", f"Bearer {_token(name)}")]
        if name == _GREEDY:
            metadata.extend(headers)
        while time.perf_counter() < ends_at:
            try:
                await stub.Encode(request, metadata=metadata, timeout=60)
                answered[name] += begins_at <= time.perf_counter() < ends_at
            except grpc.RpcError:
                refused[name] += begins_at <= time.perf_counter() < ends_at
                await asyncio.sleep(_PAUSE_SECONDS)

    async def batches() -> float:
        """Those that are computed until the end, from the warm-up on."""
        await asyncio.sleep(begins_at - time.perf_counter())
        before = await asyncio.to_thread(_batches, server)
        await asyncio.sleep(ends_at - time.perf_counter())
        return await asyncio.to_thread(_batches, server) - before

    async with asyncio.TaskGroup() as callers:
        counting = callers.create_task(batches())
        for number, name in enumerate(_NAMES):
            options = [("grpc.use_local_subchannel_pool", 1), ("caller.number", number)]
            channel = grpc.aio.insecure_channel(server.target, options)
            for _ in range(calls if name == _GREEDY else 1):
                callers.create_task(call(name, channel))
    return _Calls(answered, refused, counting.result())


def _batches(server: Attacked) -> float:
    """How many batches the server has computed."""
    return server.server.metrics()['bilstm_batch_sequences_count{model="bench"}']
