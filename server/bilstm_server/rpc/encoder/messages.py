"""The messages that carry tensors, as `wire` reads them: fields of `bilstm.v1`, by its names."""

from __future__ import annotations

from dataclasses import dataclass, field

from bilstm.v1 import encoder_pb2 as pb


@dataclass(slots=True)
class Tensor:
    """A `Tensor`, whose bytes lie in the request's own."""

    data_type: int = 0
    shape: list[int] = field(default_factory=list)
    data: memoryview = field(default=memoryview(b""))


@dataclass(slots=True)
class State:
    """A `State`: what a sequence's layers begin with."""

    hidden: Tensor = field(default_factory=Tensor)
    cell: Tensor = field(default_factory=Tensor)


@dataclass(slots=True)
class NamedTensor:
    """A `NamedTensor`: one input of a sequence."""

    name: str = ""
    tensor: Tensor = field(default_factory=Tensor)


@dataclass(slots=True)
class NamedInputs:
    """A `NamedInputs`: all inputs of a sequence."""

    inputs: list[NamedTensor] = field(default_factory=list)


@dataclass(slots=True)
class EncodeRequest:
    """An `EncodeRequest`, as `reader` has read it."""

    model: str = ""
    version: str = ""
    sequences: list[Tensor] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    output_data_type: int = 0
    initial_states: list[State] = field(default_factory=list)
    named_sequences: list[NamedInputs] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class SequenceChunk:
    """A `SequenceChunk`: a part of one sequence of a stream."""

    id: int = 0
    steps: Tensor | None = None
    last: bool = False
    initial_state: State | None = None
    inputs: list[NamedTensor] = field(default_factory=list)


@dataclass(slots=True)
class EncodeStreamRequest:
    """An `EncodeStreamRequest`, as `reader` has read it."""

    options: pb.StreamOptions | None = None
    chunks: list[SequenceChunk] = field(default_factory=list)
