"""The real engine with a gate, for tests that must decide when a batch is computed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bilstm_server.app import App
from bilstm_server.batching.engine import Engine, StagedBatch
from bilstm_server.batching.sequence import SequenceOutput
from bilstm_server.settings import Settings

HANGS_AFTER_SECONDS = 60


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what has no event of its own, such as a metric's value."""
    async with asyncio.timeout(HANGS_AFTER_SECONDS):
        while not is_so():  # noqa: ASYNC110 (gRPC's threads set no event)
            await asyncio.sleep(0)


class GatedEngine(Engine):
    """Computes as ever, but each batch first waits until the gate is open.

    `batches` are the lengths of the sequences of each batch that came to the gate. `at_gate` is
    called in the compute thread when one does, and `fault` may raise in place of computing.
    """

    def warm_up(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.at_gate: Callable[[], None] = lambda: None
        self.fault: Callable[[StagedBatch], None] = lambda staged: None
        self._arrived = threading.Semaphore(0)
        super().warm_up()
        self.batches.clear()
        self._arrived = threading.Semaphore(0)
        self.gate.clear()

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        self.batches.append([s.tokens for s in staged.sequences])
        self.at_gate()
        self._arrived.release()
        assert self.gate.wait(HANGS_AFTER_SECONDS)
        self.fault(staged)
        return super().compute(staged)

    async def arrival(self) -> None:
        """Wait until one more batch stands at the gate."""
        assert await asyncio.to_thread(self._arrived.acquire, timeout=HANGS_AFTER_SECONDS)


class Gated:
    """A `load_engine` for `App` whose engines, by their folder's name, have gates."""

    kind: type[GatedEngine] = GatedEngine

    def __init__(self) -> None:
        self.engines: dict[str, GatedEngine] = {}

    def __call__(self, folder: Path, settings: Settings) -> GatedEngine:
        engine = self.kind.load(folder, settings.device, settings.dtype, settings.kernel)
        engine.warm_up()
        self.engines[folder.name] = engine
        return engine

    def open(self) -> None:
        for engine in self.engines.values():
            engine.gate.set()


@asynccontextmanager
async def gated_server(
    settings: Settings, gated: Gated | None = None
) -> AsyncIterator[tuple[App, Gated]]:
    """A server in the test's own loop, ready, every gate closed until the test opens it."""
    gated = gated or Gated()
    async with App(settings, gated) as app:
        await app.load()
        try:
            yield app, gated
        finally:
            gated.open()
