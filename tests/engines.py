"""The real engine with a gate, for tests that must decide when a batch is computed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from bilstm_server.app import App
from bilstm_server.batching.batcher import Batcher
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput, SequenceOutput
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.model.incremental.slices import SlicedRun
from bilstm_server.settings import Settings

G = TypeVar("G", bound="Gated")

HANGS_AFTER_SECONDS = 60


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what has no event of its own, such as a metric's value."""
    async with asyncio.timeout(HANGS_AFTER_SECONDS):
        while not is_so():  # noqa: ASYNC110 (gRPC's threads set no event)
            await asyncio.sleep(0)


def first_batcher(app: App) -> Batcher:
    """The batcher of a server's default model."""
    batcher = next(iter(app.models)).batcher
    assert isinstance(batcher, Batcher)
    return batcher


class GatedEngine(Engine):
    """Computes as ever, but each batch first waits until the gate is open.

    `batches` are the lengths of the sequences of each batch that came to the gate. `at_gate` is
    called in the compute thread when one does, and `fault` may raise in place of computing.
    """

    def warm_up(self, batch_tokens: int = 0) -> None:
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

    def warm_thread(self) -> None:
        """The gate is for what callers send."""

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


class HeldEngine(GatedEngine):
    """Slices of long sequences stand still while `held`; whole batches pass between them.

    `slices` are the lengths of the sequences of each slice. `refuses` may raise in its place.
    """

    def warm_up(self, batch_tokens: int = 0) -> None:
        self.held = False
        self.slices: list[list[int]] = []
        self._lengths: dict[SlicedRun, int] = {}
        self.refuses: Callable[[Sequence[int]], None] = lambda lengths: None
        super().warm_up()
        self.slices.clear()
        self.held = True

    def begin(self, sequence: SequenceInput) -> SlicedRun:
        run = super().begin(sequence)
        self._lengths[run] = sequence.tokens
        return run

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        if self.held:
            time.sleep(0.001)
            return
        lengths = [self._lengths[run] for run in runs]
        self.refuses(lengths)
        super().advance(runs, steps)
        self.slices.append(lengths)


class Held(Gated):
    kind = HeldEngine

    @property
    def first(self) -> HeldEngine:
        """Of the first model."""
        engine = next(iter(self.engines.values()))
        assert isinstance(engine, HeldEngine)
        return engine


@asynccontextmanager
async def gated_server(settings: Settings) -> AsyncIterator[tuple[App, Gated]]:
    """A server in the test's own loop, ready, every gate closed until the test opens it."""
    async with _server(settings, Gated()) as pair:
        yield pair


@asynccontextmanager
async def held_server(settings: Settings) -> AsyncIterator[tuple[App, Held]]:
    """The same, its gates open, and slices of long sequences held."""
    async with _server(settings, Held()) as (app, held):
        held.open()
        yield app, held


@asynccontextmanager
async def _server(settings: Settings, gated: G) -> AsyncIterator[tuple[App, G]]:
    async with App(settings, gated) as app:
        await app.load()
        try:
            yield app, gated
        finally:
            gated.open()
