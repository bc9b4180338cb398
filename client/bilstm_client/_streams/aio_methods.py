"""`AioClientStreams`: as `_client_streams`, of `AsyncClient`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any, Literal, Unpack, overload

import grpc
from grpc_health.v1 import health_pb2_grpc

from bilstm.v1 import encoder_pb2 as pb

from .._calls.channel import ANY_SERVICE, STREAM_METHOD
from .._calls.connection import BaseClient
from ..errors import SequenceFailure
from ..types import Array, Encoding, EncodingChunk, K, Live, OnError, StreamKeywords
from .options import StreamOptions
from .states import SaveStates
from .stream import Stream
from .tasks import AioStream


class AioClientStreams(BaseClient[AioStream]):
    """See the module."""

    @overload
    def encode_stream(
        self,
        source: Array,
        *,
        on_error: Literal["raise"] = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[Encoding, None]: ...

    @overload
    def encode_stream(
        self,
        source: Array,
        *,
        on_error: Literal["return"],
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[Encoding | SequenceFailure, None]: ...

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
        source is pulled from in the loop, which it must not block. An async generator, as a source
        or as a sequence's chunks, is closed when the stream ends.

        Leave a loop early inside of `contextlib.aclosing(...)`, so that the stream ends there.
        """
        return self._stream(
            source, options, in_chunks=False, on_error=on_error, save_states=save_states
        )

    @overload
    def encode_chunks(
        self,
        source: Array,
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        **options: Unpack[StreamKeywords],
    ) -> AsyncGenerator[EncodingChunk[int], None]: ...

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

    @abstractmethod
    def _connection(self) -> grpc.aio.Channel:
        """The channel, which belongs to the loop that runs."""

    def _stream(
        self, source: Iterable[Any] | AsyncIterable[Any], options: StreamKeywords, **how: Any
    ) -> AsyncGenerator[Any, None]:
        keywords: dict[str, Any] = dict(options)
        timeout = self._begin(keywords.pop("timeout_seconds", None))
        stream = Stream(StreamOptions.of(**how, **keywords), timeout)
        return AioStream(self, self._open_stream, self._ask, stream, source).results()

    def _open_stream(self) -> Any:
        """A call. The loop is that in which the stream is iterated, not where it was made."""
        open_call: Any = self._connection().stream_stream(
            STREAM_METHOD, None, pb.EncodeStreamResponse.FromString
        )
        return open_call()

    def _ask(self, seconds: float) -> Any:
        """A call that any server answers that lives."""
        health: Any = health_pb2_grpc.HealthStub(self._connection())
        return health.Check(ANY_SERVICE, timeout=seconds)
