"""`WholeSequence`: a stream's sequence that is encoded once its last step has come."""

from __future__ import annotations

import asyncio
from functools import partial

from ....batching.jobs import Result
from ....engine.sequences import Array, ChunkedSteps, SequenceInput, Steps
from ....errors import InvalidInput, OutOfMemory
from ....serving.checks import check_min_steps, check_whole
from ..replies import error_chunk
from .outbox import Answer, result_chunks
from .shared import Shared, State, Types, types_of


class WholeSequence:
    """Gathers a sequence's steps, has them encoded, and puts the result into the outbox."""

    def __init__(
        self,
        shared: Shared,
        sequence_id: int,
        initial_state: State | None,
        results: set[asyncio.Future[Result]],
    ):
        """`results` are the stream's results that are waited for; this one's joins them."""
        self._shared = shared
        self._id = sequence_id
        self._initial_state = initial_state
        self._results = results
        self._steps: tuple[Steps, ...] | None = None
        self._types: Types | None = None
        self._size = 0  # bytes that it holds of the stream's room
        self.failed = False

    async def add(self, steps: tuple[Array, ...], last: bool) -> None:
        """Take more of its steps, once there is room for them and for their results."""
        shared = self._shared
        self._types = types_of(steps, self._types, shared.model.config)
        size = len(steps[0]) * shared.sizes.held(self._types)
        if not self._size:
            size += shared.sizes.rows
        if self._size + size > shared.max_bytes:
            raise InvalidInput(
                "steps",
                "with its result the sequence is larger than a stream may hold, "
                f"{shared.max_bytes} bytes",
            )
        await shared.room.take(size, last=last)
        self._size += size
        shared.idleness.move(size)
        if self._steps is None and last:
            self._steps = steps
            return
        if self._steps is None:
            self._steps = tuple(ChunkedSteps(own.shape[1:], own.dtype) for own in steps)
        try:
            for chunked, own in zip(self._steps, steps, strict=True):
                assert isinstance(chunked, ChunkedSteps)
                chunked.append(own)
        except (MemoryError, OSError) as error:
            raise OutOfMemory("out of memory") from error

    async def end(self) -> None:
        """Hand the sequence to the batcher, and expect its answer."""
        shared = self._shared
        if self._steps is None or self._types is None:
            raise InvalidInput("steps", "the sequence must have at least one step")
        whole = SequenceInput(self._steps, shared.options.outputs, self._initial_state)
        config = shared.model.config
        check_min_steps(whole.tokens, "steps", config)
        check_whole(whole.tokens, whole.outputs, shared.max_whole_tokens, "steps", config)
        self._steps = None
        taken = whole.tokens * shared.sizes.taken(self._types)
        shared.room.complete(self._size)
        result = await shared.enqueue(whole)
        answer = Answer(partial(shared.room.give, self._size - taken, sequences=1))
        shared.outbox.expect(answer)
        self._results.add(result)
        result.add_done_callback(partial(self._answer, answer, whole.tokens, taken))

    def _answer(
        self, answer: Answer, tokens: int, taken: int, result: asyncio.Future[Result]
    ) -> None:
        """Put what became of it into the outbox. Its steps, `taken` bytes, are let go."""
        shared = self._shared
        self._results.discard(result)
        if result.cancelled():
            return
        shared.room.give(taken)
        if error := result.exception():
            chunk = error_chunk(self._id, shared.report(error))
            shared.outbox.put(answer, iter([chunk]), is_result=False)
            return
        encoded = result.result()
        if encoded.timing.batch_tokens > tokens:
            encoded = Result(encoded.output.own(), encoded.timing)
        chunks = result_chunks(self._id, encoded, shared.options.reply_dtype, shared.model.config)
        shared.outbox.put(answer, chunks)

    def fail(self, error: Exception) -> Answer | None:
        """Answer with the error, and let go of the steps that are there."""
        self.failed = True
        self._steps = None
        room = self._shared.room
        room.complete(self._size)
        room.give(self._size)
        chunk = error_chunk(self._id, self._shared.report(error))
        return self._shared.outbox.send(iter([chunk]), partial(room.give, 0, sequences=1))
