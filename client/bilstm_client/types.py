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
    """How results are sent while a sequence still arrives: a block of steps at a time.

    The forward direction is carried from block to block; the backward one begins anew at the end
    of each block and the `lookahead_steps` after it (latency-controlled BiLSTM: Zhang et al. 2015,
    arXiv 1510.08983). A block's result comes when its look-ahead has arrived, or the last step.
    """

    block_steps: int
    """The steps of a block, at least 1."""
    lookahead_steps: int = 0
    """The steps after a block that its backward direction sees, too."""

    def __post_init__(self) -> None:
        whole_number(self.block_steps, "block_steps", 1)
        whole_number(self.lookahead_steps, "lookahead_steps", 0)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream has come. Its counts never fall, also where a lost server makes the stream
    send sequences again.
    """

    sequences_done: int
    """Sequences that were answered, with a result or an error."""
    steps_sent: int
    """Steps that were sent, of all sequences."""
    steps_done: int
    """Steps whose results have come. Without states these come for a whole sequence at once."""


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
    """What the server takes of one request, and of one stream. A token is a step of a sequence."""

    max_message_bytes: int
    """The size of a request, and of its reply."""
    max_sequence_tokens: int
    """The steps of one sequence of a request; a stream takes longer ones."""
    max_request_sequences: int
    """The sequences of a request."""
    max_request_tokens: int
    """The steps of all sequences of a request."""
    max_stream_bytes: int
    """What a stream may have in flight, results included."""
    max_stream_sequences: int
    """The sequences that a stream may have in flight."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the server describes it, its sizes named as torch.nn.LSTM names them."""

    name: str
    version: str
    input_size: int
    """The numbers of one step, [T, input_size]. A model of token ids embeds each in so many."""
    hidden_size: int
    """The width of the cell state of one direction."""
    num_layers: int
    proj_size: int
    """The width of one direction's output, if it is projected; else 0, and it is `hidden_size`."""
    bidirectional: bool
    num_embeddings: int
    """The number of token ids that the model knows; 0 if it takes numbers and no token ids."""
    num_classes: int
    """The number of scores in `logits`; 0 if the model has no head."""
    labels: tuple[str, ...]
    """The names of the classes, in the order of `logits`; empty if they have none."""
    outputs: tuple[str, ...]
    """The outputs that may be requested of it."""
    limits: Limits


def whole_number(value: Any, name: str, least: int) -> int:
    """Return `value` if the wire can carry it and it is at least `least`. Otherwise raise a
    `TypeError` or `ValueError` that calls it `name`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if not least <= number < 2**32:
        raise ValueError(f"{name} must be {least} or more, got {value}")
    return number
