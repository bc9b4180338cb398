"""`LiveSequence`: a sequence whose results are sent while it still arrives, block by block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bilstm.v1 import encoder_pb2 as pb

from ..batching.jobs import BatchTiming, Result
from ..batching.memory import StreamRoom
from ..batching.sequence import Array, BlockInput, SequenceOutput
from ..errors import Unavailable
from ..model.config import ModelConfig
from .deadline import Deadline
from .outbox import Outbox
from .registry import ServedModel
from .replies import encoding_chunk, error_chunk
from .sizes import StepBytes
from .stream_requests import LiveOptions, StreamOptions

State = tuple[Array, Array]


@dataclass(frozen=True, slots=True)
class _Block:
    steps: Array  # its own, then those after it that the reverse direction begins with
    own: int
    first: bool
    reaches_end: bool  # the last of `steps` is the sequence's last

    def exact(self, config: ModelConfig) -> tuple[bool, bool]:
        """Whether each direction's states are those of the whole sequence."""
        if not config.bidirectional:
            return True, True
        if config.num_layers > 1:  # upper layers read both directions of the lower ones
            return (self.first and self.reaches_end,) * 2
        return True, self.reaches_end


class LiveSequence:
    def __init__(
        self,
        sequence_id: int,
        initial_state: State | None,
        model: ServedModel,
        options: StreamOptions,
        live: LiveOptions,
        room: StreamRoom,
        step_bytes: StepBytes,
        outbox: Outbox,
        deadline: Deadline,
    ):
        self._id = sequence_id
        self._initial_state = initial_state
        self._model = model
        self._reply_dtype = options.reply_dtype
        self._live = live
        self._room = room
        self._step_bytes = step_bytes
        self._outbox = outbox
        self._deadline = deadline
        self._arrived: list[Array] = []
        self._waiting = 0  # steps
        self._ended = False
        self._closed = False  # the last chunk of the result was sent
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def append(self, steps: Array) -> None:
        """More steps, for which the stream's room has been taken."""
        self._arrived.append(steps)
        self._waiting += len(steps)
        self._changed.set()

    def end(self) -> None:
        """There are no more."""
        self._ended = True
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Something is wrong with what came: it ends once all that is due before is answered."""
        self._error = error
        self._changed.set()

    async def run(self, told: Callable[[BaseException], pb.SequenceError]) -> None:
        """Send each block's result until the sequence has ended; `told` says an error to the
        client."""
        step = 0
        result: Result | None = None
        try:
            while (block := await self._next_block(first=step == 0)) is not None:
                result = await self._compute(block, result and result.output.carried)
                self._send(block, result, step)
                step += block.own
            if self._error is not None:
                raise self._error
            if not self._closed and result is not None:
                self._close(step, result.timing)
            self._model.metrics.observe_encoded(sequences=1, tokens=0)
        except Unavailable:
            raise
        except Exception as error:
            self._let_go(self._waiting)
            self._outbox.send(
                iter([error_chunk(self._id, told(error))]),
                partial(self._room.give, 0, sequences=1),
            )

    async def _next_block(self, first: bool) -> _Block | None:
        """Once its steps are there; None behind the last one, or where the sequence has failed."""
        wanted = self._live.block_steps + self._live.lookahead_steps
        while self._waiting < wanted and not self._ended and self._error is None:
            self._changed.clear()
            await self._changed.wait()
        if not self._waiting or (self._waiting < wanted and self._error is not None):
            return None
        steps = self._arrived[0] if len(self._arrived) == 1 else np.concatenate(self._arrived)
        own = min(self._live.block_steps, len(steps))
        self._arrived = [steps[own:]]
        self._waiting -= own
        # A block that was the whole of what is there may not be the sequence's last, if that has
        # not ended: then its context, of no steps, is not the end.
        read = steps[: min(wanted, len(steps))]
        return _Block(read, own, first, self._ended and len(read) == len(steps))

    async def _compute(self, block: _Block, carried: Any) -> Result:
        own_bytes = block.own * self._step_bytes.held(block.steps.dtype)
        self._room.complete(own_bytes, sequences=0)
        waiting = BlockInput(
            block.steps, len(block.steps) - block.own, carried, self._state_of(block)
        )
        result = await self._model.batcher.enqueue(waiting, self._deadline.at)
        try:
            return await result
        except Exception:
            self._room.give(own_bytes)
            raise

    def _state_of(self, block: _Block) -> State | None:
        """The initial states that the directions have in the block: each only where it begins."""
        if self._initial_state is None or not (block.first or block.reaches_end):
            return None
        keep = np.ones((self._model.config.state_rows, 1), dtype=bool)
        if self._model.config.bidirectional:
            keep[0::2], keep[1::2] = block.first, block.reaches_end
        hidden, cell = (np.where(keep, state, state.dtype.type(0)) for state in self._initial_state)
        return hidden, cell

    def _send(self, block: _Block, result: Result, step: int) -> None:
        self._closed = self._ended and not self._waiting and self._error is None
        chunk = encoding_chunk(
            self._id,
            result.output.own(),
            self._reply_dtype,
            step,
            result.timing if self._closed else None,
            block.exact(self._model.config),
        )
        size = block.own * self._step_bytes.held(block.steps.dtype)
        self._outbox.send(iter([chunk]), partial(self._room.give, size, int(self._closed)))

    def _close(self, step: int, timing: BatchTiming) -> None:
        """The sequence has ended where all of it was answered: say so in a chunk of no steps."""
        chunk = encoding_chunk(self._id, SequenceOutput(), self._reply_dtype, step, timing)
        self._outbox.send(iter([chunk]), partial(self._room.give, 0, sequences=1))

    def _let_go(self, steps: int) -> None:
        """Of what waits for its block."""
        if self._arrived and steps:
            size = steps * self._step_bytes.held(self._arrived[0].dtype)
            self._room.complete(size, sequences=0)
            self._room.give(size)
        self._arrived.clear()
        self._waiting = 0
