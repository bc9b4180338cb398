"""One caller with 64 calls among nine with one each: what the nine keep of their equal shares, and
whether a priority that the one may not have changes it."""

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

from .attacked import attacked
from .findings import Finding

NAME = "greedy"
_WIDTH, _STEPS = 16, 400
_BATCH_TOKENS = 10 * _STEPS  # so that a batch has a place for each caller
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
        with attacked(*flags, max_batch_tokens=_BATCH_TOKENS, max_sequence_tokens=_STEPS) as server:

            def run(*headers: tuple[str, str], calls: int = _CALLS) -> _Calls:
                return asyncio.run(_load(server.target, calls, headers, seconds))

            alike = run(calls=1).answered
            greedy = run()
            urgent = run(_PRIORITY)
    sent = f"{_CALLS} calls of {_STEPS} steps by one, one by each of {_POLITE}"
    equal = alike.total() / len(_NAMES)
    yield Finding(NAME, sent, "calls/s of each, one call each", equal / seconds)
    for what, calls in ((sent, greedy), (f"{sent}; the one asks for high", urgent)):
        of_nine = [calls.answered[name] / equal for name in _NAMES[1:]]
        yield Finding(
            NAME, what, "the least of the nine, of that", min(of_nine), least=_LEAST_SHARE
        )
        yield Finding(NAME, what, "the nine's mean, of that", sum(of_nine) / _POLITE)
        yield Finding(NAME, what, "calls/s of the one", calls.answered[_GREEDY] / seconds)
        yield Finding(NAME, what, "refused, of the one", calls.refused[_GREEDY])
        of_nine_refused = calls.refused.total() - calls.refused[_GREEDY]
        yield Finding(NAME, what, "refused, of the nine", of_nine_refused, most=0)


class _Calls(NamedTuple):
    """How many calls of each caller were answered, and refused."""

    answered: Counter[str]
    refused: Counter[str]


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
    target: str, calls: int, headers: tuple[tuple[str, str], ...], seconds: float
) -> _Calls:
    """Each caller sends its next call when it has the answer to one; the first of them has so many
    in flight, and sends those headers. What comes in the warm-up is not counted."""
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
        while (now := time.perf_counter()) < ends_at:
            try:
                await stub.Encode(request, metadata=metadata, timeout=60)
                answered[name] += begins_at <= now
            except grpc.RpcError:
                refused[name] += begins_at <= now
                await asyncio.sleep(_PAUSE_SECONDS)

    async with asyncio.TaskGroup() as callers:
        for number, name in enumerate(_NAMES):
            options = [("grpc.use_local_subchannel_pool", 1), ("caller.number", number)]
            channel = grpc.aio.insecure_channel(target, options)
            for _ in range(calls if name == _GREEDY else 1):
                callers.create_task(call(name, channel))
    return _Calls(answered, refused)
