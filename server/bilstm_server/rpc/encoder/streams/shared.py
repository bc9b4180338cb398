"""`Shared`: what the sequences of one stream have in common, whole ones and live ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bilstm.v1 import encoder_pb2 as pb

from ....batching.jobs import Result
from ....engine.sequences import Array, Input
from ....errors import InvalidInput, ServiceError
from ....model.config import Output
from ....serving.registry import ServedModel
from ...context import Context
from ...internal import log_internal_error
from ...status import drop_reason, internal_sequence_error, sequence_error
from .idleness import Idleness
from .memory import StreamRoom
from .outbox import Answer, Outbox
from .requests import StreamOptions

State = tuple[Array, Array]  # hidden [L*K, P] and cell [L*K, H]


class StepBytes:
    """What one step of a stream's sequence takes in the server's memory."""

    def __init__(self, model: ServedModel, options: StreamOptions):
        config = model.config
        self._width = 1 if config.embedding else config.input_size
        encoding = config.encoding_size * model.itemsize
        # Each layer's output takes the place of what the layer before it has read.
        layers = config.num_layers if Output.STATES in options.outputs else config.num_layers - 1
        self._outputs = min(layers, 2) * encoding
        self._first_output = min(layers, 1) * encoding

    def taken(self, dtype: np.dtype[np.generic]) -> int:
        """Bytes of the step itself, in that type."""
        return self._width * dtype.itemsize

    def held(self, dtype: np.dtype[np.generic]) -> int:
        """The most bytes that it holds from its arrival until its result has been sent."""
        return max(self.taken(dtype) + self._first_output, self._outputs)


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What all sequences of a stream have in common."""

    model: ServedModel
    options: StreamOptions
    max_bytes: int  # of one sequence, with its result
    room: StreamRoom
    outbox: Outbox
    idleness: Idleness
    deadline: float  # in the event loop's time
    step_bytes: StepBytes
    context: Context
    caller: str  # as the batcher tells it from others

    async def enqueue(self, sequence: Input) -> asyncio.Future[Result]:
        """Hand a sequence, or a block of one, to the batcher once it is its turn. Returns its
        result's future. Raises `Unavailable`."""
        return await self.model.batcher.enqueue(sequence, self.deadline, self.caller)

    def report(self, error: BaseException) -> pb.SequenceError:
        """Count a sequence that has no result. Returns the error as its client is sent it."""
        assert isinstance(error, Exception)
        self.model.metrics.drop(drop_reason(error))
        if isinstance(error, ServiceError):
            return sequence_error(error)
        return internal_sequence_error(log_internal_error(error, self.context))


class StreamSequence(Protocol):
    """A sequence that has begun, and so has its place among the stream's."""

    @property
    def failed(self) -> bool:
        """Whether what still comes of it is to be ignored."""
        ...

    async def add(self, steps: Array, last: bool) -> None:
        """Take more of its steps. Raises `InvalidInput`, `OutOfMemory`, or `NoRoom`."""
        ...

    async def end(self) -> None:
        """Take note that all its steps have come. Raises `InvalidInput` or `Unavailable`."""
        ...

    def fail(self, error: Exception) -> Answer | None:
        """Answer with the error, and let go of what is there."""
        ...


def check_type(steps: Array, known: np.dtype[np.generic] | None) -> None:
    """Raise `InvalidInput` for another type than that of the steps before."""
    if known is not None and steps.dtype != known:
        raise InvalidInput("steps.data_type", "must be that of the sequence's first steps")
