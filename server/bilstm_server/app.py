"""The only wiring, and in what order a server listens, loads, is ready, drains and stops."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, NoReturn, Self

from .addresses import is_local, open_socket
from .errors import EngineHung, Failed, StartError
from .metrics import Metrics
from .probes.access import Access
from .probes.server import Probes
from .process.heap import Heap
from .process.progress import Progress
from .rpc.definitions import ServiceDefinition
from .rpc.encoder.service import EncoderService
from .rpc.encoder.streams.memory import StreamMemory
from .rpc.encoder.streams.opening import Streams
from .rpc.entrance import Entrance
from .rpc.flow.connections import end_connection
from .rpc.flow.places import ConnectionPlaces
from .rpc.flow.receiving import Receiving
from .rpc.flow.untaken import UntakenReplies
from .rpc.health import HealthService
from .rpc.interceptors.chain import InterceptorChain
from .rpc.interceptors.decoding import Decoding
from .rpc.interceptors.in_flight import CallsInFlight
from .rpc.interceptors.open_streams import OpenStreams
from .rpc.interceptors.outcomes import Outcomes
from .rpc.interceptors.traces import Traces
from .rpc.server import listen, make_server
from .security.reloading import Reloading
from .serving.loading import LoadEngine, load_engine
from .serving.models import Models
from .serving.registry import ModelRegistry
from .settings import Settings
from .summary import FAILED, HANGS, SERVING, ServerSummary

if TYPE_CHECKING:
    from .tracing import Tracer

# Before the server stops, calls are refused in words until none has come for so long; but no longer
# than so long.
_WITHOUT_CALLS_SECONDS = 0.05
_MAX_REFUSING_SECONDS = 0.25
_LAST_REPLIES_SECONDS = 0.5  # at the least, for replies to be sent once all is computed
_STREAM_ENDS_SECONDS = 0.05  # for the ends of streams to be sent


def make_tracer(settings: Settings) -> Tracer | None:
    """What traces requests, or None where traces are off. Raises `StartError` if OpenTelemetry is
    not installed."""
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
        """Raises `StartError` if the settings ask for what is not installed, or would serve other
        machines without TLS, and `UnusableFile` for certificates and tokens."""
        self._settings = settings
        self.metrics = Metrics()
        self._reloading = Reloading()
        self._entrance = Entrance(settings, self.metrics, self._reloading)
        self._probes_access = Access(settings, self.metrics.file)
        self._probes_access.watch(self._reloading)
        self._tracer = make_tracer(settings)
        self._registry = registry = ModelRegistry()
        self.models = Models(settings, registry, self.metrics, self._tracer, load_engine)
        self._streams = Streams(registry, settings, StreamMemory(settings), self.metrics)
        replies = UntakenReplies(settings, end_connection)
        self._services = self._make_services(replies)
        self._health = HealthService([service.name for service in self._services])
        self._receiving = receiving = Receiving(settings)
        self._calls = CallsInFlight(settings.max_calls, self.metrics.no_model)
        self._open_streams = OpenStreams(settings.max_calls, replies)
        self._interceptors = InterceptorChain(
            self._services,
            [
                Outcomes(self.metrics),
                self._calls,
                self._entrance.authentication,
                self._open_streams,
                *([Traces(self._tracer)] if self._tracer is not None else []),
            ],
            Decoding(receiving, replies, self.metrics.no_model),
        )
        self.metrics.watch_calls(
            lambda: self._calls.count, lambda: receiving.slow, lambda: replies.used
        )
        self._lifetime = AsyncExitStack()
        self.port = 0
        self.tls_client_port: int | None = None
        self.metrics_port = 0

    def _make_services(self, replies: UntakenReplies) -> list[ServiceDefinition]:
        """Every service that is served; health and reflection are there besides."""
        encoder = EncoderService(
            self._registry, self._settings, self.metrics, self._streams, replies
        )
        return [encoder.definition()]

    async def __aenter__(self) -> Self:
        """Raises `ListenError` if a port can't be had."""
        async with AsyncExitStack() as lifetime:
            if self._tracer is not None:
                lifetime.enter_context(self._tracer)
            lifetime.enter_context(Heap())
            await lifetime.enter_async_context(self.models)
            await lifetime.enter_async_context(self._reloading)
            self._listen_metrics(lifetime)
            ports = await self._listen()
            lifetime.enter_context(ConnectionPlaces(self._settings, ports, self.metrics))
            lifetime.push_async_callback(self._stop)
            self._lifetime = lifetime.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lifetime.aclose()

    def _listen_metrics(self, lifetime: AsyncExitStack) -> None:
        address, port = self._settings.metrics_address, self._settings.metrics_port
        host_flag = "--metrics-host" if self._settings.metrics_host else "--host"
        listening = open_socket(address, port, "metrics", host_flag, "--metrics-port")
        probes = Probes(listening, self.metrics, self._summary, self._probes_access)
        self.metrics_port = lifetime.enter_context(probes).port

    def _summary(self) -> ServerSummary:
        return ServerSummary(self._health.state, [model.summary for model in self._registry])

    async def _listen(self) -> list[int]:
        settings = self._settings
        reflection = settings.reflection
        self._server = make_server(
            *(self._services, self._health, self._interceptors, settings),
            reflection=is_local(settings.host) if reflection == "auto" else reflection == "on",
        )
        ports = await listen(self._server, settings.host, self._entrance.ports())
        self.port, self.tls_client_port = ports[0], ports[1] if len(ports) > 1 else None
        return ports

    def reload(self) -> list[str]:
        """Read certificates and tokens anew, if they have changed. Returns the flags of the
        settings that name them; what becomes of each is logged."""
        return self._reloading.reload()

    async def load(self) -> None:
        """Load and warm every model, then be ready. Raises `ModelError`."""
        await self.models.load_all()
        await self._health.set_state(SERVING)

    @property
    def progress(self) -> tuple[Progress, ...]:
        """What each thread of the engine is at."""
        return self.models.progress

    def report_hang(self) -> None:
        """Take into account that the engine does not return: `failed` says so."""
        self.models.report_hang()

    async def failed(self) -> NoReturn:
        """Wait for what must not happen, a model that stops before it is to or an engine that does
        not return; tell all who wait, and raise why."""
        try:
            await self.models.failed()
        except Exception as error:
            told = Failed("the server has failed, and ends; try another one")
            await self._give_up(error if isinstance(error, Failed) else told)
            raise

    async def _give_up(self, error: Failed) -> None:
        """Be not ready, and end all calls and streams as UNAVAILABLE. Those that watch the health
        hear of it first."""
        self._streams.drain()
        self.models.refuse()
        await self._health.set_state(HANGS if isinstance(error, EngineHung) else FAILED)
        self._open_streams.end_all()
        await asyncio.sleep(_STREAM_ENDS_SECONDS)
        self.models.fail(error)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_REPLIES_SECONDS):
                await self._calls.ended()

    async def drain(self) -> bool:
        """Be not ready, send away what is new, and finish what was accepted. Returns whether all of
        it was finished; what is not after `drain_timeout_seconds` is cancelled.

        Raises what `failed` does, if that happens meanwhile: nothing is left to wait for then, and
        yet it was not finished.
        """
        await self._health.set_state("draining")
        await asyncio.sleep(self._settings.drain_delay_seconds)
        self._streams.drain()
        self.models.refuse()
        self._receiving.drain()
        timeout = self._settings.drain_timeout_seconds
        stopping = asyncio.create_task(self._send_away(timeout + _LAST_REPLIES_SECONDS))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._streams.ended()
                await self._calls.ended()
                await self.models.drain()
        finished = self._streams.idle and self.models.idle
        self._open_streams.end_all()
        if not finished:
            await self._server.stop(None)
        await stopping
        if self.models.broken:
            await self.failed()
        return finished

    async def _send_away(self, grace_seconds: float) -> None:
        """Tell every client to go elsewhere (GOAWAY), and listen no more.

        A call that gRPC has at that moment, and nobody here has seen, ends as CANCELLED, which few
        clients retry. So there is a short time before in which calls are refused as UNAVAILABLE.
        """
        await self._calls.pause(_WITHOUT_CALLS_SECONDS, _MAX_REFUSING_SECONDS)
        await self._server.stop(grace_seconds)

    async def _stop(self) -> None:
        if not self._streams.idle:  # cancelled, they would leave gRPC's own words in the log
            self._open_streams.end_all()
            await asyncio.sleep(_STREAM_ENDS_SECONDS)
        await self._server.stop(None)
