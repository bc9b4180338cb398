"""`AsyncClient`: `Client` with every method awaited. All but the calls is in `_core`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self, Unpack, overload

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from . import _core
from ._aio_stream import AioStream
from ._base import (
    CHANNEL_OPTIONS,
    DEFAULT_MODEL,
    DEFAULT_TIMEOUT_SECONDS,
    NO_SEQUENCES,
    STREAM_METHOD,
    BaseClient,
    ModelKey,
)
from ._states import SaveStates
from ._stream import Stream
from ._stream_options import StreamOptions
from .errors import Cancelled, SequenceFailure
from .types import (
    DataTypeName,
    Encoding,
    EncodingChunk,
    InitialState,
    K,
    Live,
    Model,
    OnError,
    OutputName,
    StreamKeywords,
)


class AsyncClient(BaseClient):
    """Encodes sequences on a server, from one event loop. Make one and keep it: it holds the
    connection. Its methods are `Client`'s.
    """

    def __init__(self, target: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """As `Client`'s. Nothing is opened until the first call."""
        super().__init__(timeout_seconds)
        self._target = target
        self._channel: grpc.aio.Channel | None = None
        self._stub: encoder_pb2_grpc.EncoderServiceAsyncStub | None = None

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection: calls that wait end as `Cancelled`, later ones as `ValueError`."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def encode(
        self,
        sequence: Any,
        *,
        outputs: Sequence[OutputName] = ("states",),
        initial_state: InitialState | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
    ) -> Encoding:
        """See `Client.encode`."""
        (encoding,) = await self.encode_batch(
            [sequence],
            outputs=outputs,
            initial_states=None if initial_state is None else [initial_state],
            model=model,
            version=version,
            output_data_type=output_data_type,
            timeout_seconds=timeout_seconds,
        )
        return encoding

    async def encode_batch(
        self,
        sequences: Iterable[Any],
        *,
        outputs: Sequence[OutputName] = ("states",),
        initial_states: Sequence[InitialState] | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
    ) -> list[Encoding]:
        """See `Client.encode_batch`."""
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        options = _core.EncodeOptions.of(outputs, output_data_type, model, version)
        batch = _core.Batch.of(sequences, initial_states)
        encodings: list[Encoding] = []
        for part in batch.parts(options, await self._described(batch, options, timeout)):
            with self.calling(options.model_key, part):
                response = await self._connected().Encode(
                    batch.request(part, options), timeout=give_up_at - time.monotonic()
                )
            encodings += _core.encodings(response)
        return encodings

    @overload
    def encode_stream(
        self,
        source: Iterable[tuple[K, Any]] | AsyncIterable[tuple[K, Any]],
        *,
        on_error: Literal["raise"] = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[tuple[K, Encoding], None]: ...

    @overload
    def encode_stream(
        self,
        source: Iterable[tuple[K, Any]] | AsyncIterable[tuple[K, Any]],
        *,
        on_error: Literal["return"],
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[tuple[K, Encoding | SequenceFailure], None]: ...

    @overload
    def encode_stream(
        self,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        on_error: Literal["raise"] = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[Encoding, None]: ...

    @overload
    def encode_stream(
        self,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        on_error: Literal["return"],
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[Encoding | SequenceFailure, None]: ...

    def encode_stream(
        self,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        on_error: OnError = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[Any, None]:
        """See `Client.encode_stream`. An async iterable is awaited in a task of its own; any other
        source is pulled from in the loop, which it must not block.

        Leave a loop early inside of `contextlib.aclosing(...)`, so that the stream ends there.
        """
        return self._stream(
            source, options, in_chunks=False, on_error=on_error, save_states=save_states
        )

    @overload
    def encode_chunks(
        self,
        source: Iterable[tuple[K, Any]] | AsyncIterable[tuple[K, Any]],
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[EncodingChunk[K], None]: ...

    @overload
    def encode_chunks(
        self,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[EncodingChunk[int], None]: ...

    def encode_chunks(
        self,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[EncodingChunk[Any], None]:
        """See `Client.encode_chunks` and `encode_stream`."""
        return self._stream(source, options, in_chunks=True, on_error=on_error, live=live)

    async def is_ready(self, *, timeout_seconds: float | None = None) -> bool:
        """See `Client.is_ready`."""
        timeout = self._begin(timeout_seconds)
        with self.calling():
            health: Any = health_pb2_grpc.HealthStub(self._connection())
            response = await health.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The models this server has, the default one first."""
        timeout = self._begin(timeout_seconds)
        with self.calling():
            response = await self._connected().ListModels(pb.ListModelsRequest(), timeout=timeout)
        return [_core.model(message) for message in response.models]

    async def get_model(
        self, name: str = "", version: str = "", *, timeout_seconds: float | None = None
    ) -> Model:
        """One model; empty: the default one, its newest version."""
        timeout = self._begin(timeout_seconds)
        with self.calling((name, version)):
            response = await self._connected().GetModel(
                pb.GetModelRequest(model=name, version=version), timeout=timeout
            )
        return _core.model(response.model)

    def _stream(
        self, source: Iterable[Any] | AsyncIterable[Any], options: StreamKeywords, **how: Any
    ) -> AsyncGenerator[Any, None]:
        keywords: dict[str, Any] = dict(options)
        timeout = self._begin(keywords.pop("timeout_seconds", None))
        stream = Stream(StreamOptions.of(**how, **keywords), timeout)
        call: Any = self._connection().stream_stream(
            STREAM_METHOD, None, pb.EncodeStreamResponse.FromString
        )
        return AioStream(self, call, stream, source).results()

    def _connection(self) -> grpc.aio.Channel:
        self._check_open()
        if self._channel is None:  # not in the constructor: it belongs to the loop that runs
            self._channel = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        return self._channel

    def _connected(self) -> encoder_pb2_grpc.EncoderServiceAsyncStub:
        channel = self._connection()
        if self._stub is None:
            self._stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        return self._stub

    @contextmanager
    def calling(self, key: ModelKey = DEFAULT_MODEL, part: slice = NO_SEQUENCES) -> Iterator[None]:
        try:
            with super().calling(key, part):
                yield
        except asyncio.CancelledError as error:
            # Closing the channel cancels its calls, but not the tasks that wait for them.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise Cancelled(grpc.StatusCode.CANCELLED, "the client was closed") from error
            raise

    async def _described(
        self, batch: _core.Batch, options: _core.EncodeOptions, timeout_seconds: float
    ) -> Model | None:
        """The model whose limits the batch must keep, asked for once; None for one sequence,
        which can't be cut."""
        if len(batch.arrays) <= 1:
            return None
        model = self._models.get(options.model_key)
        if model is None:
            model = await self.get_model(*options.model_key, timeout_seconds=timeout_seconds)
            self._models[options.model_key] = model
        return model
