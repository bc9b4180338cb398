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
from ..replies import encoding_chunk, error_chunk
from .outbox import Answer
from .requests import LiveOptions
from .shared import Shared, State, Types, types_of


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of a live sequence that is there in full, and its look-ahead."""

    inputs: tuple[Array, ...]  # its own steps, then those after it that the backward direction sees
    own: int
    first: bool
    reaches_end: bool  # the last of `steps` is the sequence's last
    closes: bool  # and no block follows

    @property
    def lookahead(self) -> int:
        """The steps behind its own."""
        return len(self.inputs[0]) - self.own


class LiveSequence:
    """Encodes a live sequence block by block, in a task of its own."""

    def __init__(
        self, shared: Shared, live: LiveOptions, sequence_id: int, initial_state: State | None
    ):
        self._shared = shared
        self._live = live
        self._id = sequence_id
        self._initial_state = initial_state
        self._buffers: tuple[Array, ...] = ()  # of a block and its look-ahead, once there are steps
        self._types: Types | None = None
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

    async def add(self, steps: tuple[Array, ...], last: bool) -> None:
        """Take steps into the buffers. Where they are full, wait until a block has left them."""
        self._types = types_of(steps, self._types, self._shared.model.config)
        if not self._buffers:
            self._buffers = await self._begin(steps, self._types)
        count_all, capacity = len(steps[0]), len(self._buffers[0])
        self._shared.idleness.move(count_all * self._shared.sizes.held(self._types))
        done = 0
        while done < count_all and not self.failed:
            count = min(count_all - done, capacity - self._filled)
            for buffer, own in zip(self._buffers, steps, strict=True):
                buffer[self._filled : self._filled + count] = own[done : done + count]
            self._filled += count
            done += count
            self._changed.set()
            while self._filled == capacity and done < count_all and not self.failed:
                await self._change()

    async def _begin(self, steps: tuple[Array, ...], types: Types) -> tuple[Array, ...]:
        """Take room once and for all, for the buffers and for the blocks that are on their way.
        Returns the buffers."""
        shared, live = self._shared, self._live
        capacity = live.block_steps + live.lookahead_steps
        steps_held = capacity + 2 * live.block_steps
        size = steps_held * shared.sizes.held(types) + shared.sizes.carried
        if size > shared.max_bytes:
            raise InvalidInput(
                "steps", f"blocks take {size} bytes, and a stream may hold {shared.max_bytes}"
            )
        await shared.room.take(size, stays=True)
        self._held = size
        return tuple(np.empty((capacity, *own.shape[1:]), own.dtype) for own in steps)

    async def end(self) -> None:
        """Take note that the sequence has no more steps."""
        if not self._buffers:
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
        inputs = tuple(buffer[: self._filled].copy() for buffer in self._buffers)
        own = min(self._live.block_steps, self._filled)
        self._filled -= own
        for buffer, steps in zip(self._buffers, inputs, strict=True):
            buffer[: self._filled] = steps[own:]
        self._changed.set()
        return _Block(inputs, own, first, self.ended, self.ended and not self._filled)

    async def _compute(self, block: _Block, carried: Any) -> Result:
        waiting = BlockInput(
            block.inputs,
            self._shared.options.outputs,
            block.lookahead,
            carried,
            self._state_of(block),
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
        shape = self._shared.model.config.state
        assert shape is not None  # or an initial state would have been refused
        keep = np.ones((shape.rows, 1), dtype=bool)
        if shape.directions == 2:
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
            self._live.exactness.of(first=block.first, reaches_end=block.reaches_end),
        )
        written = self._release if block.closes else lambda: None
        self._last = self._shared.outbox.send(iter([chunk]), written)

    def _close(self, step: int, timing: BatchTiming) -> None:
        """Say in a chunk of no steps that the sequence has ended, where all of it was answered
        before."""
        reply_dtype = self._shared.options.reply_dtype
        chunk = encoding_chunk(self._id, SequenceOutput(), reply_dtype, step, timing)
        self._shared.outbox.send(iter([chunk]), self._release)
