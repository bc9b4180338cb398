"""`LiveSequence`: a sequence whose results are sent while it still arrives, block by block.

It holds a block and its look-ahead, and no more: where they are there, the block is computed, and
what comes beyond waits. So it never waits for another sequence, and none for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....batching.jobs import BatchTiming, Result
from ....engine.sequences import Array, BlockInput, SequenceOutput
from ....errors import InvalidInput
from ....model.config import ModelConfig
from ..replies import encoding_chunk, error_chunk
from .outbox import Answer
from .requests import LiveOptions
from .shared import Shared, State, check_type


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of a live sequence that is there in full, and its look-ahead."""

    steps: Array  # its own, then those after it that the backward direction begins with
    own: int
    first: bool
    reaches_end: bool  # the last of `steps` is the sequence's last
    closes: bool  # and no block follows

    def exact(self, config: ModelConfig) -> tuple[bool, bool]:
        """Tell for each direction whether its states are those of the whole sequence."""
        if not config.bidirectional:
            return True, True
        if config.num_layers > 1:  # upper layers read both directions of the lower ones
            return (self.first and self.reaches_end,) * 2
        return True, self.reaches_end


class LiveSequence:
    """Encodes a live sequence block by block, in a task of its own."""

    def __init__(
        self, shared: Shared, live: LiveOptions, sequence_id: int, initial_state: State | None
    ):
        self._shared = shared
        self._live = live
        self._id = sequence_id
        self._initial_state = initial_state
        self._buffer: Array | None = None  # of a block and its look-ahead, once there are steps
        self._filled = 0  # steps of it
        self._held = 0  # bytes of the stream's room
        self._needs = True  # it may be half-sent still
        self.ended = False
        self.computing = False
        self._error: Exception | None = None
        self.failed = False
        self._changed = asyncio.Event()
        self._last: Answer | None = None  # that was sent
        self.task = asyncio.create_task(self._run())

    # -- what comes -------------------------------------------------------------------------------

    async def add(self, steps: Array, last: bool) -> None:
        """Take steps into the buffer. Where it is full, wait until a block has left it."""
        if self._buffer is None:
            self._buffer = await self._begin(steps)
        check_type(steps, self._buffer.dtype)
        self._shared.idleness.move(len(steps) * self._shared.step_bytes.held(steps.dtype))
        done = 0
        while done < len(steps) and not self.failed:
            count = min(len(steps) - done, len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + count] = steps[done : done + count]
            self._filled += count
            done += count
            self._changed.set()
            while self._filled == len(self._buffer) and done < len(steps) and not self.failed:
                await self._change()

    async def _begin(self, steps: Array) -> Array:
        """Take room once and for all, for the buffer and for the blocks that are on their way.
        Returns the buffer."""
        shared, live = self._shared, self._live
        capacity = live.block_steps + live.lookahead_steps
        size = (capacity + 2 * live.block_steps) * shared.step_bytes.held(steps.dtype)
        if size > shared.max_bytes:
            raise InvalidInput(
                "steps", f"blocks take {size} bytes, and a stream may hold {shared.max_bytes}"
            )
        await shared.room.take(size, stays=True)
        self._held = size
        return np.empty((capacity, *steps.shape[1:]), steps.dtype)

    async def end(self) -> None:
        """Take note that the sequence has no more steps."""
        if self._buffer is None:
            raise InvalidInput("steps", "the sequence must have at least one step")
        self._complete()
        self.ended = True
        self._changed.set()

    def fail(self, error: Exception) -> Answer | None:
        """End the sequence with the error, once all that is due before is answered."""
        self._complete()
        self.failed = True
        self._error = error
        self._changed.set()
        return None

    def _complete(self) -> None:
        if self._needs:
            self._needs = False
            self._shared.room.complete(self._held, settled=self._held > 0)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # -- what goes --------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Send each block's result until the sequence has ended."""
        step = 0
        result: Result | None = None
        closed = False
        try:
            while (block := await self._next_block(first=step == 0)) is not None:
                result = await self._compute(block, result and result.output.carried)
                await self._send(block, result, step)
                step += block.own
                closed = block.closes
            if self._error is not None:
                raise self._error
            if not closed and result is not None:
                self._close(step, result.timing)
            self._shared.model.metrics.observe_encoded(sequences=1, tokens=0)
        except Exception as error:
            self._complete()
            self.failed = True
            self._changed.set()
            chunk = error_chunk(self._id, self._shared.report(error))
            self._shared.outbox.send(iter([chunk]), self._release)

    def _release(self) -> None:
        self._shared.room.give(self._held, sequences=1)

    async def _next_block(self, first: bool) -> _Block | None:
        """Wait for a block's steps. Returns None behind the last block, or where the sequence has
        failed."""
        wanted = self._live.block_steps + self._live.lookahead_steps
        while self._filled < wanted and not self.ended and self._error is None:
            await self._change()
        if not self._filled or (self._filled < wanted and self._error is not None):
            return None
        assert self._buffer is not None
        steps = self._buffer[: self._filled].copy()
        own = min(self._live.block_steps, len(steps))
        self._filled -= own
        self._buffer[: self._filled] = steps[own:]
        self._changed.set()
        return _Block(steps, own, first, self.ended, self.ended and not self._filled)

    async def _compute(self, block: _Block, carried: Any) -> Result:
        waiting = BlockInput(
            block.steps, len(block.steps) - block.own, carried, self._state_of(block)
        )
        self.computing = True
        try:
            return await (await self._shared.enqueue(waiting))
        finally:
            self.computing = False

    def _state_of(self, block: _Block) -> State | None:
        """Return the initial states that the directions have in the block. Each has its own only
        where it begins."""
        if self._initial_state is None or not (block.first or block.reaches_end):
            return None
        config = self._shared.model.config
        keep = np.ones((config.state_rows, 1), dtype=bool)
        if config.bidirectional:
            keep[0::2], keep[1::2] = block.first, block.reaches_end
        hidden, cell = (np.where(keep, state, state.dtype.type(0)) for state in self._initial_state)
        return hidden, cell

    async def _send(self, block: _Block, result: Result, step: int) -> None:
        """Send a block's result, once the one before has gone: so no more than two are on their
        way."""
        if self._last is not None:
            await self._last.sent.wait()
        chunk = encoding_chunk(
            self._id,
            result.output.own(),
            self._shared.options.reply_dtype,
            step,
            result.timing if block.closes else None,
            block.exact(self._shared.model.config),
        )
        written = self._release if block.closes else lambda: None
        self._last = self._shared.outbox.send(iter([chunk]), written)

    def _close(self, step: int, timing: BatchTiming) -> None:
        """Say in a chunk of no steps that the sequence has ended, where all of it was answered
        before."""
        reply_dtype = self._shared.options.reply_dtype
        chunk = encoding_chunk(self._id, SequenceOutput(), reply_dtype, step, timing)
        self._shared.outbox.send(iter([chunk]), self._release)
