"""`Outbox`: a stream's results on their way to the client: their order, and how they are packed
into messages. Knows no request and no queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bilstm import wire

from ....batching.jobs import Result
from ....engine.sequences import Array, SequenceOutput
from ....model.config import ModelConfig
from ....model.layers.values import EVERY_STEP
from ..replies import encoding_chunk

CHUNK_BYTES = 256 * 1024  # of a message; docs/performance.md has the measurement

Chunks = Iterator[list[wire.Part]]


@dataclass(slots=True, eq=False)
class Answer:
    """A place in the order of results, and what to send there once it is known."""

    written: Callable[[], None]  # called once all of it has been sent
    chunks: Chunks | None = None
    is_result: bool = False
    sent: asyncio.Event = field(default_factory=asyncio.Event)


class Outbox:
    """The results of one stream, until its client has taken them."""

    def __init__(self, any_order: bool):
        self._any_order = any_order
        self._expected: dict[Answer, None] = {}  # in their order
        self._ready: deque[Answer] = deque()
        self.results = 0  # that are not sent, or not all of them
        self._changed = asyncio.Event()
        self._closed = False

    def expect(self, answer: Answer) -> None:
        """Give an answer its turn behind all that are expected already. Where any order will do, it
        has none."""
        self._expected[answer] = None

    def put(self, answer: Answer, chunks: Chunks, is_result: bool = True) -> None:
        """Say what an expected answer is."""
        answer.chunks = chunks
        answer.is_result = is_result
        self.results += is_result
        if self._any_order:
            del self._expected[answer]
            self._ready.append(answer)
        else:
            self._move_ready()
        self._changed.set()

    def send(self, chunks: Chunks, written: Callable[[], None] = lambda: None) -> Answer:
        """Send chunks that have no turn in the order. Returns their answer."""
        answer = Answer(written, chunks)
        self._ready.append(answer)
        self._changed.set()
        return answer

    def close(self) -> None:
        """Expect no more answers than there are, so that `messages` ends with the last of them."""
        self._closed = True
        self._changed.set()

    def clear(self) -> None:
        """Let go of all that is there, because nobody takes it any more."""
        self._expected.clear()
        self._ready.clear()

    def _move_ready(self) -> None:
        while self._expected:
            first = next(iter(self._expected))
            if first.chunks is None:
                return
            del self._expected[first]
            self._ready.append(first)

    async def messages(self) -> AsyncGenerator[bytes]:
        """Give `EncodeStreamResponse`s as bytes, each of what is ready, until all is sent after
        `close`."""
        while True:
            parts: list[wire.Part] = []
            size = 0
            done: list[Answer] = []
            begun = False  # the first of those that are ready
            while self._ready and size < CHUNK_BYTES:
                answer = self._ready[0]
                assert answer.chunks is not None
                chunk = next(answer.chunks, None)
                if chunk is None:
                    done.append(self._ready.popleft())
                    begun = False
                    continue
                begun = True
                parts += chunk
                size += sum(map(len, chunk))
            if parts:
                yield b"".join(parts)
            # A large answer lets the others pass; one that has not begun may be followed by more of
            # its sequence, and stays before that.
            if self._any_order and begun:
                self._ready.rotate(-1)
            for answer in done:
                self.results -= answer.is_result
                answer.written()
                answer.sent.set()
            if not (parts or done):
                if self._closed and not self._expected:
                    return
                self._changed.clear()
                await self._changed.wait()


def result_chunks(
    sequence_id: int, result: Result, dtype: np.dtype[np.generic], config: ModelConfig
) -> Chunks:
    """Give the chunks of a sequence's result, with the rows of its steps cut into parts."""
    output = result.output
    values = config.output_values
    rows = {name: array for name, array in output.arrays.items() if values[name].per_step}
    size = sum(array.size * dtype.itemsize for array in rows.values())
    steps = _steps(rows, config)
    per_part = max(1, CHUNK_BYTES * steps // size) if size else steps
    step = 0
    while steps - step > per_part:
        part = SequenceOutput({n: _part(own, step, per_part, steps) for n, own in rows.items()})
        yield encoding_chunk(sequence_id, part, dtype, step, None)
        step += per_part
    last = {name: _part(own, step, per_part, steps) for name, own in rows.items()}
    output = SequenceOutput(output.arrays | last, output.state)
    yield encoding_chunk(sequence_id, output, dtype, step, result.timing)


def _steps(rows: Mapping[str, Array], config: ModelConfig) -> int:
    """The steps of the sequence, by which its chunks are cut: the rows of an output that has one
    for each. Where there is none, those of the longest output."""
    for name, array in rows.items():
        value = config.output_values[name]
        if value.grid == EVERY_STEP and not value.sparse:
            return len(array)
    return max(map(len, rows.values()), default=0)


def _part(rows: Array, step: int, steps: int, most: int) -> Array:
    """The rows of an output for `steps` steps from `step` on, of `most` steps in all: of one that
    has fewer or more rows, its share."""
    if len(rows) == most:
        return rows[step : step + steps]
    first, last = (min(at, most) * len(rows) // most for at in (step, step + steps))
    return rows[first:last]
