"""The messages that carry tensors, as `wire` reads them: fields of `bilstm.v1`, by its names."""

from __future__ import annotations

from dataclasses import dataclass, field

from bilstm.v1 import encoder_pb2 as pb


@dataclass(slots=True)
class Tensor:
    data_type: int = 0
    shape: list[int] = field(default_factory=list)
    data: memoryview = field(default=memoryview(b""))


@dataclass(slots=True)
class State:
    hidden: Tensor = field(default_factory=Tensor)
    cell: Tensor = field(default_factory=Tensor)


@dataclass(slots=True)
class EncodeRequest:
    model: str = ""
    version: str = ""
    sequences: list[Tensor] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    output_data_type: int = 0
    initial_states: list[State] = field(default_factory=list)


@dataclass(slots=True)
class SequenceChunk:
    id: int = 0
    steps: Tensor | None = None
    last: bool = False
    initial_state: State | None = None


@dataclass(slots=True)
class EncodeStreamRequest:
    options: pb.StreamOptions | None = None
    chunks: list[SequenceChunk] = field(default_factory=list)
