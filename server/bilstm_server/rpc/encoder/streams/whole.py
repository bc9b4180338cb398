"""`WholeSequence`: a stream's sequence that is encoded once its last step has come; and what it
shares with the stream's other sequences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from bilstm.v1 import encoder_pb2 as pb

from ....batching.jobs import Result
from ....engine.sequences import Array, ChunkedSteps, SequenceInput, Steps
from ....errors import InvalidInput, OutOfMemory
from ....serving.registry import ServedModel
from ..replies import error_chunk
from .memory import StreamRoom
from .outbox import Answer, Outbox, result_chunks
from .progress import Progress
from .requests import StreamOptions
from .sizes import StepBytes

State = tuple[Array, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What all sequences of a stream have in common."""

    model: ServedModel
    options: StreamOptions
    max_bytes: int  # of one sequence, with its result
    room: StreamRoom
    outbox: Outbox
    progress: Progress
    deadline: float  # in the event loop's time
    step_bytes: StepBytes
    told: Callable[[BaseException], pb.SequenceError]  # an error as the client is told it


class StreamSequence(Protocol):
    """A sequence that has begun, and so has its place among the stream's."""

    @property
    def failed(self) -> bool:
        """Whether what still comes of it is to be ignored."""
        ...

    async def add(self, steps: Array, last: bool) -> None:
        """More of it. Raises `InvalidInput`, `OutOfMemory`, or `NoRoom`."""
        ...

    async def end(self) -> None:
        """There is no more. Raises `InvalidInput` or `Unavailable`."""
        ...

    def fail(self, error: Exception) -> Answer | None:
        """Answer with the error, and let go what is there."""
        ...


@dataclass(slots=True, eq=False)
class Entry:
    """A sequence that is not complete yet."""

    id: int
    has_place: bool = False  # among the stream's sequences
    body: StreamSequence | None = None
    refused: bool = False  # before it had a body
    moved_at: float = 0.0  # in seconds that the server has asked for more

    @property
    def failed(self) -> bool:
        """And answered: what still comes of it is ignored."""
        return self.refused or (self.body is not None and self.body.failed)


def check_type(steps: Array, known: np.dtype[np.generic] | None) -> None:
    """Raises `InvalidInput` for another type than that of the steps before."""
    if known is not None and steps.dtype != known:
        raise InvalidInput("steps.data_type", "must be that of the sequence's first steps")


class WholeSequence:
    def __init__(
        self,
        shared: Shared,
        sequence_id: int,
        initial_state: State | None,
        results: set[asyncio.Future[Result]],
    ):
        """`results`: of the stream, while they are waited for."""
        self._shared = shared
        self._id = sequence_id
        self._initial_state = initial_state
        self._results = results
        self._steps: Steps | None = None
        self._dtype: np.dtype[np.generic] | None = None
        self._size = 0  # bytes that it holds of the stream's room
        self.failed = False

    async def add(self, steps: Array, last: bool) -> None:
        shared = self._shared
        check_type(steps, self._dtype)
        self._dtype = steps.dtype
        size = len(steps) * shared.step_bytes.held(steps.dtype)
        if self._size + size > shared.max_bytes:
            raise InvalidInput(
                "steps",
                "with its result the sequence is larger than a stream may hold, "
                f"{shared.max_bytes} bytes",
            )
        await shared.room.take(size, last=last)
        self._size += size
        shared.progress.move(size)
        if self._steps is None and last:
            self._steps = steps
            return
        if self._steps is None:
            self._steps = ChunkedSteps(steps.shape[1:], steps.dtype)
        assert isinstance(self._steps, ChunkedSteps)
        try:
            self._steps.append(steps)
        except (MemoryError, OSError) as error:
            raise OutOfMemory("out of memory") from error

    async def end(self) -> None:
        shared = self._shared
        if self._steps is None or self._dtype is None:
            raise InvalidInput("steps", "the sequence must have at least one step")
        whole = SequenceInput(self._steps, shared.options.outputs, self._initial_state)
        self._steps = None
        taken = whole.tokens * shared.step_bytes.taken(self._dtype)
        shared.room.complete(self._size)
        result = await shared.model.batcher.enqueue(whole, shared.deadline)
        answer = Answer(partial(shared.room.give, self._size - taken, sequences=1))
        shared.outbox.expect(answer)
        self._results.add(result)
        result.add_done_callback(partial(self._answer, answer, whole.tokens, taken))

    def _answer(
        self, answer: Answer, tokens: int, taken: int, result: asyncio.Future[Result]
    ) -> None:
        """What became of it; `taken`: bytes of its steps, which are let go."""
        shared = self._shared
        self._results.discard(result)
        if result.cancelled():
            return
        shared.room.give(taken)
        if error := result.exception():
            chunk = error_chunk(self._id, shared.told(error))
            shared.outbox.put(answer, iter([chunk]), is_result=False)
            return
        encoded = result.result()
        if encoded.timing.batch_tokens > tokens:
            encoded = Result(encoded.output.own(), encoded.timing)
        shared.outbox.put(answer, result_chunks(self._id, encoded, shared.options.reply_dtype))

    def fail(self, error: Exception) -> Answer | None:
        self.failed = True
        self._steps = None
        room = self._shared.room
        room.complete(self._size)
        room.give(self._size)
        chunk = error_chunk(self._id, self._shared.told(error))
        return self._shared.outbox.send(iter([chunk]), partial(room.give, 0, sequences=1))
