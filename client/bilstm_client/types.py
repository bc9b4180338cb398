"""What callers give and what calls return: plain, immutable values over numpy arrays."""

from __future__ import annotations

import operator
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from .results import OUTPUTS, Array, Encoding, EncodingChunk, K, OutputName, State, Timing

__all__ = [
    "DATA_TYPES",
    "DEFAULT_IN_FLIGHT",
    "OUTPUTS",
    "Array",
    "AsyncPairs",
    "AsyncSource",
    "ChunkKeywords",
    "DataTypeName",
    "Encoding",
    "EncodingChunk",
    "InitialState",
    "K",
    "Limits",
    "Live",
    "Metadata",
    "Model",
    "OnError",
    "OutputName",
    "Outputs",
    "Pairs",
    "Progress",
    "Raise",
    "Return",
    "SaveStates",
    "State",
    "StreamKeywords",
    "Timing",
    "whole_number",
]

Outputs = OutputName | Sequence[OutputName]
DataTypeName = Literal["float32", "float16", "bfloat16"]
DATA_TYPES: tuple[DataTypeName, ...] = get_args(DataTypeName)
InitialState = State | tuple[Any, Any]  # the pair: hidden and cell, as torch.nn.LSTM takes them

# Headers of a call: one value of each name, or pairs where a name has several.
Metadata = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]

DEFAULT_IN_FLIGHT = 64  # sequences of a stream
OnError = Literal["raise", "return"]
Raise = Literal["raise"]
Return = Literal["return"]
Pairs = Iterable[tuple[K, Any]]  # of keys and sequences
AsyncPairs = Pairs[K] | AsyncIterable[tuple[K, Any]]
AsyncSource = Iterable[Any] | AsyncIterable[Any]
SaveStates = Callable[[Any], "str | os.PathLike[str] | None"]  # None: they stay in memory


@dataclass(frozen=True, slots=True)
class Live:
    """How results are sent while input still arrives: a block of `block_steps` steps at a time.

    The forward direction is carried from block to block; the backward one begins anew at the end
    of each block and the `lookahead_steps` after it (latency-controlled BiLSTM: Zhang et al. 2015,
    arXiv 1510.08983). A block's result comes when its look-ahead has arrived, or the last step.
    """

    block_steps: int  # at least 1
    lookahead_steps: int = 0

    def __post_init__(self) -> None:
        whole_number(self.block_steps, "block_steps", 1)
        whole_number(self.lookahead_steps, "lookahead_steps", 0)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream has come. Its counts never fall, also where a lost server makes the stream
    send sequences again.
    """

    sequences_done: int  # answered, with a result or an error
    steps_sent: int  # of all sequences
    steps_done: int  # whose results have come


class _CallKeywords(TypedDict, total=False):
    """The options of both kinds of stream; `Client.encode_stream` says what each means."""

    in_flight: int
    ordered: bool
    outputs: Outputs
    model: str
    version: str
    output_data_type: DataTypeName
    timeout_seconds: float | None
    metadata: Metadata | None


class StreamKeywords(_CallKeywords, total=False):
    """The options of `encode_stream` but `on_error`, on which the results' type depends."""

    save_states: SaveStates | None
    progress: Callable[[Progress], None] | None


class ChunkKeywords(_CallKeywords, total=False):
    """The options of `encode_chunks`."""

    live: Live | None
    on_error: OnError


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes: of one request, and of one stream."""

    max_message_bytes: int
    max_sequence_tokens: int
    max_request_sequences: int
    max_request_tokens: int
    max_stream_bytes: int  # what a stream has in flight, results included
    max_stream_sequences: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the server describes it, its sizes named as torch.nn.LSTM names them."""

    name: str
    version: str
    input_size: int
    hidden_size: int
    num_layers: int
    proj_size: int
    bidirectional: bool
    num_embeddings: int  # 0: the model takes floats, not token ids
    num_classes: int  # 0: the model has no head
    labels: tuple[str, ...]
    outputs: tuple[str, ...]
    limits: Limits


def whole_number(value: Any, name: str, least: int) -> int:
    """`value`, if it is a number as the wire has it, and no less; `TypeError` or `ValueError` if
    not."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if not least <= number < 2**32:
        raise ValueError(f"{name} must be {least} or more, got {value}")
    return number
