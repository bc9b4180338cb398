"""`Shared`: what the sequences of one stream have in common, whole ones and live ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bilstm.v1 import encoder_pb2 as pb

from ....batching.jobs import Result
from ....callers import Caller, Priority
from ....engine.sequences import Array, Input
from ....errors import InvalidInput, ServiceError
from ....model.config import ModelConfig
from ....model.incremental.memory import carried_bytes, held_bytes, row_bytes
from ....serving.registry import ServedModel
from ...context import Context
from ...internal import log_internal_error
from ...status import drop_reason, internal_sequence_error, sequence_error
from .idleness import Idleness
from .memory import StreamRoom
from .outbox import Answer, Outbox
from .requests import StreamOptions

State = tuple[Array, Array]  # hidden [L*K, P] and cell [L*K, H]
Types = Sequence[np.dtype[np.generic]]  # of the model's inputs


class SequenceBytes:
    """What a stream's sequence takes in the server's memory, for each step and beside them."""

    def __init__(self, model: ServedModel, options: StreamOptions):
        config = model.config
        self._widths = [own.value.width for own in config.inputs.values()]
        self._beside, self._alone = held_bytes(config, options.outputs, model.itemsize)
        # Of outputs that have one row for the sequence.
        self.rows = row_bytes(config, options.outputs, model.itemsize)
        # What a live sequence keeps beside its steps: after one block, and after the next.
        self.carried = 2 * carried_bytes(config, options.outputs, model.itemsize)

    def taken(self, types: Types) -> int:
        """Bytes of the step itself, its inputs in these types."""
        return sum(w * t.itemsize for w, t in zip(self._widths, types, strict=True))

    def held(self, types: Types) -> int:
        """The most bytes that it holds from its arrival until its result has been sent."""
        return max(self.taken(types) + self._beside, self._alone)


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What all sequences of a stream have in common."""

    model: ServedModel
    options: StreamOptions
    max_bytes: int  # of one sequence, with its result
    max_whole_tokens: int  # of a sequence that is not computed in slices
    room: StreamRoom
    outbox: Outbox
    idleness: Idleness
    deadline: float  # in the event loop's time
    sizes: SequenceBytes
    context: Context
    caller: Caller
    priority: Priority

    async def enqueue(self, sequence: Input) -> asyncio.Future[Result]:
        """Hand a sequence, or a block of one, to the batcher once it is its turn. Returns its
        result's future. Raises `Unavailable`."""
        return await self.model.batcher.enqueue(
            sequence, self.deadline, self.caller.name, self.priority
        )

    def drop(self, reason: str) -> None:
        """Count a sequence that has no result, for one of DROP_REASONS."""
        self.model.metrics.drop(reason, self.caller.name)

    def report(self, error: BaseException) -> pb.SequenceError:
        """Count a sequence that has no result. Returns the error as its client is sent it."""
        assert isinstance(error, Exception)
        self.drop(drop_reason(error))
        if isinstance(error, ServiceError):
            return sequence_error(error)
        return internal_sequence_error(log_internal_error(error, self.context, self.caller.name))


class StreamSequence(Protocol):
    """A sequence that has begun, and so has its place among the stream's."""

    @property
    def failed(self) -> bool:
        """Whether what still comes of it is to be ignored."""
        ...

    async def add(self, steps: tuple[Array, ...], last: bool) -> None:
        """Take more of its steps. Raises `InvalidInput`, `OutOfMemory`, or `NoRoom`."""
        ...

    async def end(self) -> None:
        """Take note that all its steps have come. Raises `InvalidInput` or `Unavailable`."""
        ...

    def fail(self, error: Exception) -> Answer | None:
        """Answer with the error, and let go of what is there."""
        ...


def types_of(steps: tuple[Array, ...], known: Types | None, config: ModelConfig) -> Types:
    """Return the types of a sequence's inputs. Raises `InvalidInput` for others than those of the
    steps before."""
    types = tuple(array.dtype for array in steps)
    if known is not None and types != known:
        wrong = next(i for i, own in enumerate(types) if own != known[i])
        field = "steps" if len(types) == 1 else list(config.inputs)[wrong]
        raise InvalidInput(f"{field}.data_type", "must be that of the sequence's first steps")
    return types
