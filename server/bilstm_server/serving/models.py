"""`Models`: each of a server's models from its load to its end: load → warm → serve → drain →
unload. Its metrics come and go with it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Self

import structlog

from ..batching.batcher import Batcher
from ..batching.device import Device
from ..engine.engine import Engine
from ..errors import EngineHung, Failed, ModelError
from ..metrics import Metrics
from ..model.device import memory_readers, utilization
from ..process.progress import Progress
from ..quoting import quoted
from ..settings import ModelSource, Settings
from .loading import LoadEngine, Loader
from .registry import ModelRegistry, ServedModel

if TYPE_CHECKING:
    from ..tracing import Tracer

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Running:
    """What a model runs on, until the last of its calls has its results."""

    engine: Engine
    batching: asyncio.Task[None]
    unloading: bool = False


class Models:
    """The models of one server. `async with` it to load and serve them; leaving ends them."""

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        metrics: Metrics,
        tracer: Tracer | None,
        load_engine: LoadEngine,
    ):
        self._settings = settings
        self._registry = registry
        self._metrics = metrics
        self._tracer = tracer
        self._device = Device()
        self._loader = Loader(settings, self._device, load_engine)
        self._running: dict[ServedModel, _Running] = {}
        self._stopped = asyncio.Event()  # a model, before it was to, or the engine hangs
        self._hangs = False
        self._draining = False
        self._slower: set[str] = set()  # why a kernel is not a faster one, as it was logged
        self._lifetime = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as lifetime:
            lifetime.enter_context(self._device)
            await lifetime.enter_async_context(self._loader)
            lifetime.push_async_callback(self._stop)
            self._lifetime = lifetime.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lifetime.aclose()

    def __iter__(self) -> Iterator[ServedModel]:
        """Those that are served, in the order in which they were loaded."""
        return iter([m for m, running in self._running.items() if not running.unloading])

    # -- load, warm, serve ------------------------------------------------------------------------

    async def load_all(self) -> None:
        """Load every model that the settings name; the first is the default. Raises
        `ModelError`."""
        sources, left_out = self._settings.find_models()
        for path, reason in left_out:
            log.warning("not served", path=str(path), reason=reason)
        for source in sources:
            await self.load(source)
        # What is there now stays: the garbage collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        self._registry.complete = True
        for model, running in self._running.items():
            _show(model, running.engine)

    async def load(self, source: ModelSource) -> ServedModel:
        """Load one model, and serve it; while it loads, the others are served. Raises `ModelError`,
        also if that version of it is served already."""
        started_at = time.perf_counter()
        engine = await self._loader.load(source.folder)
        seconds = time.perf_counter() - started_at
        model = self._serve(source.name, engine)
        model.metrics.observe_load(seconds)
        if self._registry.complete:
            _show(model, engine)
        if engine.device.type == "cuda":
            device = engine.device
            self._metrics.watch_device(
                str(device), memory_readers(device), lambda: utilization(device)
            )
        if engine.fallback_reason and engine.fallback_reason not in self._slower:
            self._slower.add(engine.fallback_reason)
            log.warning("slower kernel", kernel=engine.kernel, reason=engine.fallback_reason)
        log.info(
            "model loaded",
            model=model.name,
            version=model.version,
            folder=str(source.folder),
            device=str(engine.device),
            dtype=engine.dtype,
            kernel=engine.kernel,
            instructions=engine.instructions,
            threads=self._loader.threads,
            seconds=round(seconds, 3),
        )
        return model

    def _serve(self, name: str, engine: Engine) -> ServedModel:
        metrics = self._metrics.model(name)
        batcher = Batcher(engine, self._settings, self._device, metrics, self._tracer)
        model = ServedModel(name, engine.config, batcher, metrics, engine.itemsize)
        try:
            self._registry.add(model)
        except ModelError:
            metrics.end()
            raise
        batching = asyncio.create_task(batcher.run(), name=f"batch {name}")
        self._running[model] = _Running(engine, batching)
        batching.add_done_callback(lambda _: self._ended(model))
        return model

    def _ended(self, model: ServedModel) -> None:
        """Forget a model that was unloaded, or report one that failed or was not to end."""
        running = self._running[model]
        failed = not running.batching.cancelled() and running.batching.exception() is not None
        if failed or not (running.unloading or self._draining):
            self._stopped.set()
        elif running.unloading:
            del self._running[model]
            model.metrics.end()

    # -- what must not happen ---------------------------------------------------------------------

    @property
    def progress(self) -> tuple[Progress, ...]:
        """What each thread of the device is at."""
        return (self._device.computing, self._device.staging)

    def report_hang(self) -> None:
        """Take into account that the engine does not return: `failed` raises `EngineHung`."""
        self._hangs = True
        self._stopped.set()

    @property
    def broken(self) -> bool:
        """Whether what must not happen has: `failed` raises at once."""
        return self._stopped.is_set()

    async def failed(self) -> NoReturn:
        """Wait for what must not happen, a model that stops before it is to or an engine that does
        not return, and raise why."""
        await self._stopped.wait()
        if self._hangs:
            raise EngineHung("the engine does not return: the server ends; try another one")
        for running in self._running.values():
            if running.batching.done():
                running.batching.result()
        raise RuntimeError("a batcher ended before the server was drained")

    def fail(self, error: Failed) -> None:
        """End with this error all that waits or is computed, and let nothing in any more."""
        for model in self._running:
            model.batcher.fail(error)

    # -- drain, unload ----------------------------------------------------------------------------

    async def unload(self, model: ServedModel) -> None:
        """Serve a model no more: new calls find none of its name, what was admitted is finished,
        and its metrics and its memory go. That also happens if whoever waits for it is cancelled.

        Raises what its batcher failed with, as `failed` does.
        """
        self._registry.remove(model)
        running = self._running[model]
        running.unloading = True
        model.batcher.drain(f"model {quoted(model.name)} was unloaded")
        await asyncio.wait({running.batching})
        running.batching.result()
        log.info("model unloaded", model=model.name, version=model.version)

    def refuse(self) -> None:
        """Let no more calls in to any model. Streams go on, and calls that are there."""
        for model in self._running:
            model.batcher.refuse()

    async def drain(self) -> None:
        """Finish what was admitted. Nothing comes any more."""
        self._draining = True
        for model in self._running:
            model.batcher.drain()
        if self._running:
            await asyncio.wait([running.batching for running in self._running.values()])

    @property
    def idle(self) -> bool:
        """Whether no call waits for its results."""
        return all(model.batcher.idle for model in self._running)

    async def _stop(self) -> None:
        batching = [running.batching for running in self._running.values()]
        for task in batching:
            task.cancel()
        await asyncio.gather(*batching, return_exceptions=True)


def _show(model: ServedModel, engine: Engine) -> None:
    model.metrics.observe_ready(model.version, engine.kernel, str(engine.device), engine.dtype)
