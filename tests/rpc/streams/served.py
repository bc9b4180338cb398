"""The server that streams are held to: what it was sent, what it holds, and what it must answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.app import App
from tests.support.engines import Gated, gated_server
from tests.support.servers import settings

Array = NDArray[Any]
WIDTH = 5
LONG = 5_000  # steps: more than what is computed whole


def sequence(seed: int, steps: int, dtype: str = "<f4") -> Array:
    return np.random.default_rng(seed).standard_normal((steps, WIDTH)).astype(dtype)


def target(app: App) -> str:
    return f"127.0.0.1:{app.port}"


def metric(app: App, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(name, labels) or 0.0


def held(app: App) -> float:
    return metric(app, "bilstm_stream_bytes")


OPEN = pb.EncodeStreamRequest(options=pb.StreamOptions())


def of(*chunks: pb.SequenceChunk) -> pb.EncodeStreamRequest:
    return pb.EncodeStreamRequest(chunks=chunks)


STEP_BYTES = 4 * 2 * 12  # held of each step: what its two layers put out is more than it and one


@asynccontextmanager
async def bounded(folder: Path, streams: int = 1, **more: Any) -> AsyncIterator[tuple[App, Gated]]:
    """A server that lets a stream hold 200 steps, and all together so many times that."""
    size = 200 * STEP_BYTES
    room = settings(
        model=[("small", folder)], max_stream_bytes=size, max_streams_bytes=streams * size, **more
    )
    async with gated_server(room) as (app, gated):
        gated.open()
        yield app, gated
