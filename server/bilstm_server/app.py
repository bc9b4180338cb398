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
from .batching.queue import QueueLimits
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
from .probes import Probes
from .rpc.definitions import ServiceDefinition
from .rpc.encoder.requests import RequestLimits
from .rpc.encoder.service import EncoderService
from .rpc.encoder.streams.memory import MemoryLimits, StreamMemory
from .rpc.encoder.streams.opening import StreamBounds, Streams
from .rpc.encoder.streams.watch import Patience
from .rpc.flow.connections import end_connection
from .rpc.flow.receiving import Receiving
from .rpc.flow.untaken import UntakenReplies
from .rpc.health import HealthService
from .rpc.interceptors.chain import InterceptorChain
from .rpc.interceptors.decoding import Decoding
from .rpc.interceptors.in_flight import CallsInFlight
from .rpc.interceptors.open_streams import OpenStreams
from .rpc.interceptors.outcomes import Outcomes
from .rpc.interceptors.traces import Traces
from .rpc.server import ConnectionLimits, listen, make_server
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
        limits = self._request_limits
        self._tracer = make_tracer(settings)
        self._streams = Streams(
            self._registry,
            limits,
            StreamMemory(self._memory_limits),
            StreamBounds(
                settings.max_streams,
                settings.max_connection_streams,
                Patience(settings.stream_idle_seconds, settings.stream_wanted_seconds),
            ),
            self.metrics,
        )
        replies = UntakenReplies(
            settings.max_reply_bytes,
            settings.max_connection_reply_bytes,
            settings.reply_seconds,
            end_connection,
        )
        self._services = self._make_services(replies)
        self._health = HealthService([service.name for service in self._services])
        self._receiving = receiving = Receiving(
            settings.max_receive_bytes, settings.max_message_bytes, settings.receive_seconds
        )
        self._calls = CallsInFlight(settings.max_calls, self.metrics.no_model)
        self._open_streams = OpenStreams(settings.max_calls, replies)
        self._interceptors = InterceptorChain(
            self._services,
            [
                Outcomes(self.metrics),
                self._calls,
                self._open_streams,
                *([Traces(self._tracer)] if self._tracer is not None else []),
            ],
            Decoding(receiving, replies, self.metrics.no_model),
        )
        self.metrics.watch_calls(
            lambda: self._calls.count, lambda: receiving.slow, lambda: replies.used
        )
        self._batchers: dict[Batcher, asyncio.Task[None]] = {}
        self._lifetime = AsyncExitStack()
        self._said: set[str] = set()  # warnings
        self.port = 0
        self.metrics_port = 0

    def _make_services(self, replies: UntakenReplies) -> list[ServiceDefinition]:
        """Every service that is served; health and reflection are there besides."""
        limits = self._request_limits
        encoder = EncoderService(self._registry, limits, self.metrics, self._streams, replies)
        return [encoder.definition()]

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
        probes = Probes(listening, self.metrics, lambda: self._health.state)
        self.metrics_port = lifetime.enter_context(probes).port

    async def _listen(self) -> None:
        settings = self._settings
        limits = ConnectionLimits(
            max_connections=settings.max_connections,
            idle_seconds=settings.connection_idle_seconds,
            max_connection_calls=settings.max_connection_calls,
            max_message_bytes=settings.max_message_bytes,
            max_metadata_bytes=settings.max_metadata_bytes,
        )
        self._server = make_server(self._services, self._health, self._interceptors, limits)
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
        batcher = Batcher(engine, self._queue_limits, self._device, metrics, self._tracer)
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
                await self._calls.ended()
                for batcher in self._batchers:
                    batcher.drain()
                if self._batchers:
                    await asyncio.wait(self._batchers.values())
        finished = self._streams.idle and all(batcher.idle for batcher in self._batchers)
        self._open_streams.end_all()
        if not finished:
            await self._server.stop(None)
        await stopping
        return finished

    async def _send_away(self, grace_seconds: float) -> None:
        """Tell every client to go elsewhere (GOAWAY), and listen no more.

        A call that gRPC has at that moment, and nobody here has seen, ends as CANCELLED, which few
        clients retry. So there is a short time before in which calls are refused as UNAVAILABLE.
        """
        await self._calls.pause(_QUIET_SECONDS, _REFUSING_SECONDS)
        await self._server.stop(grace_seconds)

    async def _stop(self) -> None:
        if not self._streams.idle:  # cancelled, they would leave gRPC's own words in the log
            self._open_streams.end_all()
            await asyncio.sleep(_ENDING_SECONDS)
        await self._server.stop(None)
        for task in self._batchers.values():
            task.cancel()
        await asyncio.gather(*self._batchers.values(), return_exceptions=True)

    @property
    def _request_limits(self) -> RequestLimits:
        settings = self._settings
        return RequestLimits(
            max_message_bytes=settings.max_message_bytes,
            max_sequence_tokens=settings.max_sequence_tokens,
            max_request_sequences=settings.max_request_sequences,
            max_request_tokens=settings.max_batch_tokens,
            max_stream_bytes=settings.max_stream_bytes,
            max_stream_sequences=settings.max_stream_sequences,
            max_block_tokens=self._queue_limits.max_whole_tokens,
        )

    @property
    def _memory_limits(self) -> MemoryLimits:
        settings = self._settings
        return MemoryLimits(
            max_stream_bytes=settings.max_stream_bytes,
            max_stream_sequences=settings.max_stream_sequences,
            max_streams_bytes=settings.max_streams_bytes,
            passed_seconds=settings.stream_wanted_seconds,
        )

    @property
    def _queue_limits(self) -> QueueLimits:
        settings = self._settings
        return QueueLimits(
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_sequences=settings.max_batch_sequences,
            max_queue_tokens=settings.max_queue_tokens,
            max_queue_sequences=settings.max_queue_sequences,
            max_queue_seconds=settings.max_queue_seconds,
            max_queue_delay=settings.max_queue_delay,
            max_whole_tokens=min(settings.max_whole_tokens, settings.max_batch_tokens),
            slice_seconds=settings.slice_seconds,
        )
