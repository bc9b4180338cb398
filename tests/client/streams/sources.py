"""Sources of streams, and what becomes of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np

from bilstm_client._calls.options import EncodeOptions
from bilstm_client._streams.entries import entry_of
from bilstm_client._streams.sending import Sending
from bilstm_client.types import Array, Encoding
from tests.client.clients import AwaitedClient
from tests.support.fake_streams import INPUT_SIZE, FakeServer
from tests.support.waiting import HANGS_AFTER_SECONDS

STATES = EncodeOptions.of("states", "float32", "", "")
CANCELLED, UNAVAILABLE = grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE


def sequence(steps: int, seed: int = 0) -> Array:
    rng = np.random.default_rng((seed, steps))
    return rng.integers(-3, 4, (steps, INPUT_SIZE)).astype(np.float32)  # of sums without rounding


SEQUENCES = [sequence(steps, i) for i, steps in enumerate((3, 1, 12, 5, 1, 7))]
X = sequence(7)
WRONG = np.ones((2, 4), "f4")


def assert_states(encoding: Encoding, expected: Array | None, tolerance: float = 1e-6) -> None:
    assert expected is not None
    np.testing.assert_allclose(encoding.states, expected, rtol=0, atol=tolerance)


class Chunks:
    """Can be iterated any number of times."""

    def __init__(self, *chunks: Any):
        self._chunks = chunks
        self.iterated = 0

    def __iter__(self) -> Iterator[Any]:
        self.iterated += 1
        return iter(self._chunks)


def mapped(x: Array, folder: Path, mode: Any = "r") -> Array:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode=mode)  # type: ignore[no-any-return]


def requests_of(*sequences: Any) -> list[bytes]:
    """What a call sends of sequences that are all there."""
    sending = Sending()
    messages: list[bytes] = []
    for index, x in enumerate(sequences):
        entry = entry_of(index, x)
        sending.begin(entry)
        messages += sending.array(entry)
        assert entry.begun
        assert entry.failure is None
    return [*messages, *sending.flush()]


class SourceError(Exception):
    pass


def ended(fake: FakeServer) -> None:
    """Wait until the fake has seen the end of every call."""
    for call in fake.calls:
        assert call.ended.wait(HANGS_AFTER_SECONDS)


def source_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "bilstm-source"}


def own_tasks(client: AwaitedClient) -> set[str]:
    """The stream's tasks that its client's loop still has."""

    async def names() -> set[str]:
        tasks = (cast(Any, task.get_coro()).__qualname__ for task in asyncio.all_tasks())
        return {name for name in tasks if name.startswith("AioStream")}

    return client._wait(names())
