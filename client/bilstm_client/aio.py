"""`AsyncClient`: the client of asyncio. What its methods do is in `_calls` and `_streams`."""

from __future__ import annotations

import typing
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Self, Unpack

from ._calls.asynchronous import AsyncChannel
from ._calls.base import BaseClient
from ._calls.options import EncodeOptions
from ._calls.session import Session
from ._streams.options import StreamOptions
from ._streams.tasks import AioStream
from .errors import SequenceFailure
from .types import (
    DEFAULT_IN_FLIGHT,
    Array,
    AsyncPairs,
    AsyncSource,
    ChunkKeywords,
    DataTypeName,
    Encoding,
    EncodingChunk,
    InitialState,
    K,
    Live,
    Metadata,
    Model,
    OnError,
    Outputs,
    Progress,
    Raise,
    Return,
    SaveStates,
    StreamKeywords,
)


class AsyncClient(BaseClient[AsyncChannel]):
    """Encodes sequences on the server at `target`. Make one and keep it, for one event loop.

    Nothing is opened until the first call. The client belongs to that call's event loop until the
    loop is closed, as `asyncio.run` does at its end; then to the next call's. A `token` function is
    called in it, and must return at once.
    """

    @staticmethod
    def _opened(session: Session) -> AsyncChannel:
        return AsyncChannel(session)

    async def __aenter__(self) -> Self:
        self._session.check_open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection: what runs ends as `Cancelled`, later calls as `ValueError`."""
        await self._channel.close()

    async def encode(
        self,
        sequence: Any,
        *,
        outputs: Outputs = ("states",),
        initial_state: InitialState | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
        metadata: Metadata | None = None,
    ) -> Encoding:
        """Encode one sequence of T steps: [T, input_size] numbers, or [T] token ids.

        `sequence`: an ndarray of any layout, a torch tensor, or nested lists. float64 becomes
        float32, and inf beyond its range. A NaN passes through, and stays in its own sequence. Of a
        model with several inputs, a dict of them by name: `{"tokens": ids, "features": x}`.

        `outputs`: one name or several. Each is an item of the result, as in `encoding["upos"]`, and
        these are attributes, for P = proj_size or hidden_size, K = 2 if bidirectional or else 1:

        - `states` [T, K*P]: the top layer's output at every step
        - `final` [K*P]: the forward direction's last step and the backward one's first, joined
        - `mean`, `max` [K*P]: over the steps
        - `logits`, `probabilities` [C] or [T, C], `labels` [] or [T]: of the sequence, or each step
        - `state`: a `State`, hidden [layers*K, P] and cell [layers*K, H], after the last step

        `initial_state`: a `State`, or a (hidden, cell) pair of its shapes; None: zeros. With the
        `state` of one piece as the next one's, a unidirectional model encodes a sequence in pieces,
        up to rounding; a bidirectional one does not: its backward direction begins at the end.

        `model`, `version`: empty for the server's default and newest. `output_data_type`: of all
        arrays. `timeout_seconds`: None for the client's own. `metadata`: headers beside its own.

        Raises `EncoderError`s; `TypeError` for what is not numbers, names or a state; and
        `ValueError` for impossible names, a timeout that is not finite, and a closed client.
        """
        options = EncodeOptions.of(outputs, output_data_type, model, version)
        states = None if initial_state is None else [initial_state]
        flow = self._flows.encode([sequence], states, options, timeout_seconds, metadata)
        return (await self._channel.run(flow))[0]

    async def encode_batch(
        self,
        sequences: Iterable[Any],
        *,
        outputs: Outputs = ("states",),
        initial_states: Sequence[InitialState] | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
        metadata: Metadata | None = None,
    ) -> list[Encoding]:
        """Encode many sequences, each as `encode` takes it; the results are in their order.

        They are sent in as few RPCs as the server's limits need; `encode_stream` has no such
        limits. `initial_states`: one per sequence. `timeout_seconds`: of all of it. The other
        options are those of `encode`; what it raises names a sequence by its index: `sequences[3]`.
        """
        options = EncodeOptions.of(outputs, output_data_type, model, version)
        flow = self._flows.encode(sequences, initial_states, options, timeout_seconds, metadata)
        return await self._channel.run(flow)

    # As `typing.overload`, editors that know only `overload` show the whole signature below.
    @typing.overload
    def encode_stream(
        self, source: Array, *, on_error: Raise = "raise", **options: Unpack[StreamKeywords]
    ) -> AsyncGenerator[Encoding, None]: ...
    @typing.overload
    def encode_stream(
        self, source: Array, *, on_error: Return, **options: Unpack[StreamKeywords]
    ) -> AsyncGenerator[Encoding | SequenceFailure, None]: ...
    @typing.overload
    def encode_stream(
        self, source: AsyncPairs[K], *, on_error: Raise = "raise", **options: Unpack[StreamKeywords]
    ) -> AsyncGenerator[tuple[K, Encoding], None]: ...
    @typing.overload
    def encode_stream(
        self, source: AsyncPairs[K], *, on_error: Return, **options: Unpack[StreamKeywords]
    ) -> AsyncGenerator[tuple[K, Encoding | SequenceFailure], None]: ...
    @typing.overload
    def encode_stream(
        self, source: AsyncSource, *, on_error: Raise = "raise", **options: Unpack[StreamKeywords]
    ) -> AsyncGenerator[Encoding, None]: ...
    @typing.overload
    def encode_stream(
        self, source: AsyncSource, *, on_error: Return, **options: Unpack[StreamKeywords]
    ) -> AsyncGenerator[Encoding | SequenceFailure, None]: ...
    def encode_stream(
        self,
        source: AsyncSource,
        *,
        on_error: OnError = "raise",
        save_states: SaveStates | None = None,
        progress: Callable[[Progress], None] | None = None,
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        outputs: Outputs = ("states",),
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Encode any number of sequences over one call, however long they are.

        Yields an `Encoding` for each, as `encode` returns it; (key, `Encoding`) for a pair. They
        are in the source's order, or with `ordered=False` in the order in which they are done.

        `source`: sequences, or (key, sequence) pairs: tuples of two, with any key but an array. It
        may be endless: it is pulled from only as fast as the server takes sequences, with at most
        `in_flight` unanswered; if it is not async it must not block the loop. A sequence is what
        `encode` takes, not to be changed until it is answered, also a `np.memmap` larger than
        memory; or an iterable, async or not, of chunks, each like a sequence, such as a generator
        or `iter(chunks)` but no list or tuple: these have rows, and a tuple of two is a pair.
        Sequences are sent whole, each waits for those before it.

        - `on_error`: where one sequence is refused, the stream ends with its error, whose `index`
          and `key` tell which it was. With "return" the error, a `SequenceFailure`, is yielded in
          place of the `Encoding`, and the stream goes on. What the source raises always ends it.
        - `save_states`: a function from key (from index, without pairs) to the path of an .npy
          file, or to None. The states are written there as they arrive, and `encoding.states` is a
          read-only memory map of it: so neither a sequence nor its states need fit into memory.
          An `OSError`, of the function or of writing, fails the sequence as `NotSaved`.
        - `progress`: a function that is called with a `Progress` after each message sent (of 256
          KiB) and each reply. What it raises ends the stream.

        A lost server is connected to again, and what it has not answered is sent again; each result
        is yielded once. What was given as an iterator can't be sent again: that is its error, an
        `Unavailable`. There is no deadline: `timeout_seconds` is for how long a stream goes on
        without a server, or with one that owes results and gives no sign of life.

        The stream ends with its generator, and async generators that it reads are closed. Leave a
        loop early in `contextlib.aclosing`. Options and errors are `encode`'s, and `NotAnArray`.
        """
        encode = EncodeOptions.of(outputs, output_data_type, model, version)
        options = StreamOptions.of(encode, on_error, in_flight, ordered, save_states, progress)
        return AioStream(self._channel, options, source, timeout_seconds, metadata).results()

    @typing.overload
    def encode_chunks(
        self, source: Array, **options: Unpack[ChunkKeywords]
    ) -> AsyncGenerator[EncodingChunk[int], None]: ...
    @typing.overload
    def encode_chunks(
        self, source: AsyncPairs[K], **options: Unpack[ChunkKeywords]
    ) -> AsyncGenerator[EncodingChunk[K], None]: ...
    @typing.overload
    def encode_chunks(
        self, source: AsyncSource, **options: Unpack[ChunkKeywords]
    ) -> AsyncGenerator[EncodingChunk[int], None]: ...
    def encode_chunks(
        self,
        source: AsyncSource,
        *,
        live: Live | None = None,
        on_error: OnError = "raise",
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        outputs: Outputs = ("states",),
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncGenerator[EncodingChunk[Any], None]:
        """Encode as `encode_stream` does, and yield `states` and the like in parts as they arrive.

        The last `EncodingChunk` of a sequence has its other outputs, or its error, too.

        With `live`, results come while a sequence still arrives, such as a microphone's: it is a
        generator of chunks, each sent at once. So `source` is `[chunks]`, or `[(key, chunks)]`: one
        live input per stream, as a second would not be read before the first has ended. Outputs are
        those of each step. What was begun can't go on without its server: that is an `Unavailable`.
        """
        encode = EncodeOptions.of(outputs, output_data_type, model, version)
        options = StreamOptions.of(encode, on_error, in_flight, ordered, in_chunks=True, live=live)
        return AioStream(self._channel, options, source, timeout_seconds, metadata).results()

    async def is_ready(
        self, *, timeout_seconds: float | None = None, metadata: Metadata | None = None
    ) -> bool:
        """Whether the server says that it serves: its models are loaded, and it is not draining.
        It is asked once; `Unavailable` is raised where none answers.
        """
        return await self._channel.run(self._flows.is_ready(timeout_seconds, metadata))

    async def wait_until_ready(
        self, timeout_seconds: float | None = None, *, metadata: Metadata | None = None
    ) -> None:
        """Wait until the server says that it serves, also for one that is yet to be started. After
        `timeout_seconds` raises `Unavailable` or `DeadlineExceeded`, with what was in the way.
        """
        await self._channel.run(self._flows.wait_until_ready(timeout_seconds, metadata))

    async def list_models(
        self, *, timeout_seconds: float | None = None, metadata: Metadata | None = None
    ) -> list[Model]:
        """List the models that the server has and the token is for, the default one first if it is
        among them.
        """
        return await self._channel.run(self._flows.list_models(timeout_seconds, metadata))

    async def get_model(
        self,
        name: str = "",
        version: str = "",
        *,
        timeout_seconds: float | None = None,
        metadata: Metadata | None = None,
    ) -> Model:
        """Describe one model: sizes, inputs, outputs, labels and limits; by default the server's
        default model, and the newest version. Raises `ModelNotFound` where there is none.
        """
        flow = self._flows.get_model(name, version, timeout_seconds, metadata)
        return await self._channel.run(flow)
