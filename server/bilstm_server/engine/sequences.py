"""What goes into a batch and what comes out of it, one sequence at a time. Plain arrays."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
_MAX_BLOCK_BYTES = 1024 * 1024
_MAPPED_BYTES = 128 * 1024  # from which a block is the system's own


class ChunkedSteps:
    """The steps of a sequence that comes in parts: each is written once, into blocks that are
    never moved, so that a long one needs no second copy to grow."""

    def __init__(self, step_shape: tuple[int, ...], dtype: np.dtype[np.generic]):
        """`step_shape`: (D,) of floats, () of token ids."""
        self._step_shape = step_shape
        self._dtype = dtype
        step_bytes = dtype.itemsize * int(np.prod(step_shape, dtype=np.int64))
        self._step_bytes = step_bytes
        self._blocks: list[Array] = []
        self._starts: list[int] = []
        self._last_used = 0  # steps of the last block
        self.tokens = 0

    def append(self, steps: Array) -> None:
        """Add steps, [t, D] or token ids [t], at the end."""
        done = 0
        while done < len(steps):
            if not self._blocks or self._last_used == len(self._blocks[-1]):
                self._add_block(len(steps) - done)
            block = self._blocks[-1]
            count = min(len(steps) - done, len(block) - self._last_used)
            block[self._last_used : self._last_used + count] = steps[done : done + count]
            self._last_used += count
            self.tokens += count
            done += count

    def _add_block(self, steps: int) -> None:
        # As much as there is, so that there are few; but large ones no larger than needed.
        room = max(1, min(self.tokens * self._step_bytes, _MAX_BLOCK_BYTES) // self._step_bytes)
        shape = (max(steps, room), *self._step_shape)
        size = shape[0] * self._step_bytes
        if size < _MAPPED_BYTES:
            block = np.empty(shape, self._dtype)
        else:  # straight from the system, where it goes back to at once when it is dropped
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            block = np.frombuffer(mmap.mmap(-1, size, flags), self._dtype).reshape(shape)
        self._blocks.append(block)
        self._starts.append(self.tokens)
        self._last_used = 0

    def steps_between(self, start: int, stop: int) -> Array:
        """The steps from `start` to `stop`, not to be written to."""
        parts = []
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            offset = start - self._starts[index]
            part = self._blocks[index][offset : offset + stop - start]
            parts.append(part)
            start += len(part)
            index += 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


Steps = Array | ChunkedSteps  # of one input: [T, width] floats, or [T] ids


@dataclass(frozen=True, slots=True, eq=False)
class SequenceInput:
    """One validated sequence; its arrays may lie read-only over the request's own bytes."""

    inputs: tuple[Steps, ...]  # of the model's inputs, in its order; all of the same T
    outputs: frozenset[str]
    initial_state: tuple[Array, Array] | None = None  # [L*K, P] and [L*K, H]

    @property
    def encoded(self) -> tuple[int, int]:
        """How many sequences and tokens it adds to what has been encoded."""
        return 1, self.tokens

    @property
    def tokens(self) -> int:
        """The number of steps, T: what the sequence costs and takes of the limits."""
        first = self.inputs[0]
        return first.tokens if isinstance(first, ChunkedSteps) else len(first)

    def steps_between(self, start: int, stop: int) -> tuple[Array, ...]:
        """The steps from `start` to `stop` of each input, not to be written to."""
        return tuple(
            [
                steps.steps_between(start, stop)
                if isinstance(steps, ChunkedSteps)
                else steps[start:stop]
                for steps in self.inputs
            ]
        )


@dataclass(frozen=True, slots=True, eq=False)
class BlockInput:
    """A block of a live sequence, and the steps behind it where its backward direction begins."""

    inputs: tuple[Array, ...]  # of the model's inputs: [block + context, …] each
    outputs: frozenset[str]  # per-step ones only
    context: int
    carried: Any  # what the block before left: the model's, or None
    initial_state: tuple[Array, Array] | None = None  # what the backward direction begins with

    @property
    def encoded(self) -> tuple[int, int]:
        return 0, self.tokens - self.context  # its sequence is counted when it has ended

    @property
    def tokens(self) -> int:
        return len(self.inputs[0])

    def steps_between(self, start: int, stop: int) -> tuple[Array, ...]:
        return tuple(steps[start:stop] for steps in self.inputs)


Input = SequenceInput | BlockInput


@dataclass(frozen=True, slots=True, eq=False)
class SequenceOutput:
    """The outputs that one sequence asked for: floats in the model's dtype, integers as int32."""

    arrays: dict[str, Array] = field(default_factory=dict)  # by name; all but the state
    state: tuple[Array, Array] | None = None  # [L*K, P] and [L*K, H]
    carried: Any = None  # of a live sequence's block: for the next one

    def own(self) -> SequenceOutput:
        """A copy in memory of its own. The outputs of a batch are parts of arrays that they share:
        one of them that is kept would keep all.
        """
        arrays = {output: array.copy() for output, array in self.arrays.items()}
        state = None if self.state is None else (self.state[0].copy(), self.state[1].copy())
        return SequenceOutput(arrays, state, self.carried)
