"""`ClientStreams`: the methods of `Client` that are streams, and their types."""

from __future__ import annotations

from collections.abc import Generator, Iterable
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
from .threads import SyncStream


class ClientStreams(BaseClient[SyncStream]):
    """See the module."""

    _channel: grpc.Channel

    @overload
    def encode_stream(
        self,
        source: Array,
        *,
        on_error: Literal["raise"] = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> Generator[Encoding, None, None]: ...

    @overload
    def encode_stream(
        self,
        source: Array,
        *,
        on_error: Literal["return"],
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> Generator[Encoding | SequenceFailure, None, None]: ...

    @overload
    def encode_stream(
        self,
        source: Iterable[tuple[K, Any]],
        *,
        on_error: Literal["raise"] = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> Generator[tuple[K, Encoding], None, None]: ...

    @overload
    def encode_stream(
        self,
        source: Iterable[tuple[K, Any]],
        *,
        on_error: Literal["return"],
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> Generator[tuple[K, Encoding | SequenceFailure], None, None]: ...

    @overload
    def encode_stream(
        self,
        source: Iterable[Any],
        *,
        on_error: Literal["raise"] = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> Generator[Encoding, None, None]: ...

    @overload
    def encode_stream(
        self,
        source: Iterable[Any],
        *,
        on_error: Literal["return"],
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> Generator[Encoding | SequenceFailure, None, None]: ...

    def encode_stream(
        self,
        source: Iterable[Any],
        *,
        on_error: OnError = "raise",
        save_states: SaveStates | None = None,
        **options: Unpack[StreamKeywords],
    ) -> Generator[Any, None, None]:
        """Encode any number of sequences over one call, however long they are.

        `source`: sequences, or (key, sequence) pairs: tuples of two, the key whatever the caller
        likes. It may be endless: it is pulled from, in a thread of its own, only as fast as the
        server takes sequences, with no more than `in_flight` (64) unanswered; each is sent as soon
        as it is pulled. A sequence is what `encode` takes, and must not be changed until it is
        answered; also an array larger than memory, such as a `np.memmap`, which is converted and
        sent a piece at a time; or an iterable of chunks that follow one another, [t, input_size]
        numbers or [t] token ids each. So rows may be a list or a tuple, but no generator, and no
        tuple of two, which is a pair.

        Sequences are sent whole, one after the other: one that comes slowly, such as a live input,
        keeps those after it waiting. Give each live input a stream of its own, as many as the
        server allows a connection.

        Yields an `Encoding` for each, as `encode` returns it; (key, `Encoding`) for a pair. They
        are in the source's order, or with `ordered=False` in the order in which they are done.

        `on_error`: where one sequence is refused, the stream ends with its error, whose `index`
        and `key` tell which it was. With "return" the error, a `SequenceFailure`, is yielded in
        the place of the sequence's `Encoding`, and the stream goes on. An exception of the
        source's own always ends it, and is raised as it is.

        `save_states`: a function from key (from index, without pairs) to a path. There the states
        are written as an .npy file while they arrive, and `encoding.states` is a read-only memory
        map of it: so neither a sequence nor its states need fit into memory. Where it returns
        None they are an array as ever; where it or the writing raises an `OSError`, that sequence
        has failed, as `NotSaved`.

        A server that is lost, or is not there yet, is connected to again, and what was not
        answered is sent again; every result is yielded once. A sequence given as an iterator
        can't be read again: once it was begun, that is its error, an `Unavailable`. A stream has
        no deadline: `timeout_seconds` (None: the client's own) is for how long it goes on without
        a server, or with one that gives no sign of life: it owes results, sends none, and does not
        answer as to its health. The other options are those of `encode`.

        The stream ends with the generator that this returns: when it is at its end, is closed, or
        is no longer referred to. To leave a loop over it early is enough only where no variable
        holds it; if one does, use `contextlib.closing`. To close the client ends it, too.

        Raises what `encode` does, and `NotAnArray`, a `TypeError`, for a sequence that is none.
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
    ) -> Generator[EncodingChunk[int], None, None]: ...

    @overload
    def encode_chunks(
        self,
        source: Iterable[tuple[K, Any]],
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        **options: Unpack[StreamKeywords],
    ) -> Generator[EncodingChunk[K], None, None]: ...

    @overload
    def encode_chunks(
        self,
        source: Iterable[Any],
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        **options: Unpack[StreamKeywords],
    ) -> Generator[EncodingChunk[int], None, None]: ...

    def encode_chunks(
        self,
        source: Iterable[Any],
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        **options: Unpack[StreamKeywords],
    ) -> Generator[EncodingChunk[Any], None, None]:
        """Encode as `encode_stream` does; yields the states in parts as they arrive.

        The last `EncodingChunk` of a sequence has its other outputs, or its error, too.

        With `live`, results come while a sequence still arrives, such as one from a microphone:
        an iterable of chunks, each of which is sent at once. The only output is the states, and
        what was begun can't go on after the server was lost: that is an `Unavailable`. One live
        input per stream: a second one would not be read before the first has ended. Open as many
        streams as there are, or as the server allows a connection.
        """
        return self._stream(source, options, in_chunks=True, on_error=on_error, live=live)

    def _stream(
        self, source: Iterable[Any], options: StreamKeywords, **how: Any
    ) -> Generator[Any, None, None]:
        keywords: dict[str, Any] = dict(options)
        timeout = self._begin(keywords.pop("timeout_seconds", None))
        stream = Stream(StreamOptions.of(**how, **keywords), timeout)
        call: Any = self._channel.stream_stream(
            STREAM_METHOD, None, pb.EncodeStreamResponse.FromString
        )
        health: Any = health_pb2_grpc.HealthStub(self._channel)

        def ask(seconds: float) -> grpc.Future[Any]:
            asked: grpc.Future[Any] = health.Check.future(ANY_SERVICE, timeout=seconds)
            return asked

        return SyncStream(self, call, ask, stream, source).results()
