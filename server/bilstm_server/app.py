"""The only wiring, and the lifecycle: start listening, load, be ready, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

import structlog

from .addresses import open_socket
from .batching.batcher import Batcher
from .batching.device import Device
from .engine.engine import Engine
from .errors import DeviceLost, ModelError, OutOfMemory, StartError
from .heap import Heap
from .metrics import Metrics
from .model.device import (
    bound_memory,
    choose_device,
    memory_readers,
    use_tf32,
    use_threads,
    utilization,
)
from .probes.page import Status
from .probes.server import Probes
from .rpc.connections import end_connection
from .rpc.health import HealthService
from .rpc.interceptors import Method, RpcInterceptor
from .rpc.receiving import Receiving
from .rpc.server import SERVICE, listen, make_server
from .rpc.service import EncoderService
from .rpc.streams.admission import Streams
from .rpc.streams.memory import StreamMemory
from .rpc.untaken import UntakenReplies
from .rpc.wire import encode_request_decoder, stream_request_decoder
from .serving.registry import ModelRegistry, ServedModel
from .settings import Settings
from .sources import ModelSource

if TYPE_CHECKING:
    from .tracing import Tracer

log = structlog.get_logger()

# Calls are refused in words until none has come for so long, or for so long at the most.
_QUIET_SECONDS = 0.05
_REFUSING_SECONDS = 0.25
_REPLY_SECONDS = 0.5  # at the least, for the last replies
_ENDING_SECONDS = 0.05  # in which streams are told that they end

LoadEngine = Callable[[Path, Settings], Engine]


def load_engine(folder: Path, settings: Settings) -> Engine:
    """The model in `folder`, loaded and warm. Raises `ModelError`."""
    use_threads(settings.threads)
    use_tf32(settings.float32_matmul_precision == "high")
    bound_memory(choose_device(settings.device), settings.max_device_bytes)
    try:
        engine = Engine.load(folder, settings.device, settings.dtype, settings.kernel)
        engine.warm_up(settings.max_batch_tokens)
    except OutOfMemory as error:
        raise ModelError(
            f"{folder}: the device's memory, or --max-device-bytes, does not hold the model and a "
            "batch of --max-batch-tokens"
        ) from error
    except DeviceLost as error:
        raise ModelError(f"{folder}: {error.__cause__}; --kernel reference may do") from error
    return engine


def make_tracer(settings: Settings) -> Tracer | None:
    """None where traces are off. Raises `StartError` if OpenTelemetry is not there."""
    if not settings.tracing_endpoint:
        return None
    try:
        from .tracing import Tracer  # not imported where it is off
    except ModuleNotFoundError as error:
        raise StartError(
            f"--tracing-endpoint: {error.name} is missing; pip install '.[tracing]'"
        ) from error
    return Tracer(settings.tracing_endpoint, settings.tracing_sample_ratio)


class App:
    """One server. `async with` listens, not yet ready; `load` makes it ready; `drain` finishes
    what was accepted; leaving stops it.
    """

    def __init__(self, settings: Settings, load_engine: LoadEngine = load_engine):
        """Raises `StartError` if it can't do what it is told to."""
        self._settings = settings
        self._load_engine = load_engine
        self.metrics = Metrics()
        self._registry = ModelRegistry()
        self._tracer = make_tracer(settings)
        self._health = HealthService([SERVICE])
        self._streams = Streams(self._registry, settings, StreamMemory(settings), self.metrics)
        replies = UntakenReplies(settings, end_connection)
        self._service = EncoderService(
            self._registry, settings, self.metrics, self._streams, replies
        )
        self._receiving = receiving = Receiving(settings)
        unread = self.metrics.no_model  # what can't be read
        self._interceptor = RpcInterceptor(
            self.metrics,
            {
                f"/{SERVICE}/Encode": Method(
                    encode_request_decoder(settings, unread), self._service.admit
                ),
                f"/{SERVICE}/EncodeStream": Method(stream_request_decoder(settings, unread)),
            },
            receiving,
            replies,
            settings.max_calls,
            self._tracer,
        )
        self.metrics.watch_calls(
            lambda: self._interceptor.calls, lambda: receiving.slow, lambda: replies.used
        )
        self._batchers: dict[Batcher, asyncio.Task[None]] = {}
        self._lifetime = AsyncExitStack()
        self._said: set[str] = set()  # warnings
        self.port = 0
        self.metrics_port = 0

    async def __aenter__(self) -> Self:
        """Raises `ListenError` if a port can't be had."""
        async with AsyncExitStack() as lifetime:
            if self._tracer is not None:
                lifetime.enter_context(self._tracer)
            lifetime.enter_context(Heap())
            self._device = lifetime.enter_context(Device())
            self._listen_metrics(lifetime)
            await self._listen()
            lifetime.push_async_callback(self._stop)
            self._lifetime = lifetime.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lifetime.aclose()

    def _listen_metrics(self, lifetime: AsyncExitStack) -> None:
        address, port = self._settings.metrics_address, self._settings.metrics_port
        host_flag = "--metrics-host" if self._settings.metrics_host else "--host"
        listening = open_socket(address, port, "metrics", host_flag, "--metrics-port")
        probes = Probes(listening, self.metrics, self._status)
        self.metrics_port = lifetime.enter_context(probes).port

    def _status(self) -> Status:
        return Status(self._health.state, [model.summary for model in self._registry])

    async def _listen(self) -> None:
        settings = self._settings
        self._server = make_server(self._service, self._health, self._interceptor, settings)
        self.port = await listen(self._server, settings.host, settings.port)

    async def load(self) -> None:
        """Load and warm every model, then be ready. Raises `ModelError`."""
        sources, left_out = self._settings.find_models()
        for path, reason in left_out:
            log.warning("not served", path=str(path), reason=reason)
        served = [await self._load_model(source) for source in sources]
        # What is there now stays: the garbage collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        for model, engine in served:
            model.metrics.observe_ready(
                model.version, engine.kernel, str(engine.device), engine.dtype
            )
        self._registry.complete = True
        await self._health.set_serving(True)

    async def _load_model(self, source: ModelSource) -> tuple[ServedModel, Engine]:
        started_at = time.perf_counter()
        # In the thread that will compute: every other one that ran torch's parallel code would
        # have threads of its own, and with more of them than cores they wait by sleeping.
        engine = await asyncio.get_running_loop().run_in_executor(
            self._device.compute_thread, self._load_engine, source.folder, self._settings
        )
        seconds = time.perf_counter() - started_at
        metrics = self.metrics.model(source.name)
        batcher = Batcher(engine, self._settings, self._device, metrics, self._tracer)
        model = ServedModel(source.name, engine.config, batcher, metrics, engine.itemsize)
        self._registry.add(model)
        self._batchers[batcher] = asyncio.create_task(batcher.run(), name=f"batch {source.name}")
        metrics.observe_load(seconds)
        if engine.device.type == "cuda":
            device = engine.device
            self.metrics.watch_device(
                str(device), memory_readers(device), lambda: utilization(device)
            )
        if engine.missed_kernel and engine.missed_kernel not in self._said:
            self._said.add(engine.missed_kernel)
            log.warning("slower kernel", kernel=engine.kernel, reason=engine.missed_kernel)
        log.info(
            "model loaded",
            model=source.name,
            version=model.version,
            folder=str(source.folder),
            device=str(engine.device),
            dtype=engine.dtype,
            kernel=engine.kernel,
            instructions=engine.instructions,
            threads=engine.threads,
            seconds=round(seconds, 3),
        )
        return model, engine

    async def failed(self) -> NoReturn:
        """Wait for what must not happen, the end of a batcher before its time, and raise it."""
        await asyncio.wait(self._batchers.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in self._batchers.values():
            if task.done():
                task.result()
        raise RuntimeError("a batcher ended before the server was drained")

    async def drain(self) -> bool:
        """Be not ready, send what is new away, and finish what was accepted.

        What is not finished after `drain_timeout_seconds` is cancelled: then False.
        """
        await self._health.set_serving(False)
        await asyncio.sleep(self._settings.drain_delay_seconds)
        self._streams.drain()
        for batcher in self._batchers:
            batcher.refuse()
        self._receiving.drain()
        timeout = self._settings.drain_timeout_seconds
        stopping = asyncio.create_task(self._send_away(timeout + _REPLY_SECONDS))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._streams.ended()
                await self._interceptor.idle()
                for batcher in self._batchers:
                    batcher.drain()
                if self._batchers:
                    await asyncio.wait(self._batchers.values())
        finished = self._streams.idle and all(batcher.idle for batcher in self._batchers)
        self._interceptor.end_streams()
        if not finished:
            await self._server.stop(None)
        await stopping
        return finished

    async def _send_away(self, grace_seconds: float) -> None:
        """Tell every client to go elsewhere (GOAWAY), and listen no more.

        A call that gRPC has at that moment, and nobody here has seen, ends as CANCELLED, which few
        clients retry. So there is a short time before in which calls are refused as UNAVAILABLE.
        """
        await self._interceptor.quiet(_QUIET_SECONDS, _REFUSING_SECONDS)
        await self._server.stop(grace_seconds)

    async def _stop(self) -> None:
        if not self._streams.idle:  # cancelled, they would leave gRPC's own words in the log
            self._interceptor.end_streams()
            await asyncio.sleep(_ENDING_SECONDS)
        await self._server.stop(None)
        for task in self._batchers.values():
            task.cancel()
        await asyncio.gather(*self._batchers.values(), return_exceptions=True)
