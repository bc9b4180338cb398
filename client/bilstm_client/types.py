"""What callers give and what calls return: plain, immutable values over numpy arrays."""

from __future__ import annotations

import operator
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from .chunks import EncodingChunk
from .models import InputInfo, Limits, Model, OutputInfo
from .results import OUTPUTS, Array, Encoding, K, OutputName, State, Timing

__all__ = [
    "DATA_TYPES",
    "DEFAULT_IN_FLIGHT",
    "OUTPUTS",
    "Array",
    "AsyncPairs",
    "AsyncSource",
    "CertificateFiles",
    "ChunkKeywords",
    "DataTypeName",
    "Encoding",
    "EncodingChunk",
    "InitialState",
    "InputInfo",
    "K",
    "Limits",
    "Live",
    "Metadata",
    "Model",
    "OnError",
    "OutputInfo",
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
    "TlsFrom",
    "TokenFrom",
    "whole_number",
]

# Any name will do: a model may have outputs of its own. Editors offer those that many have.
Outputs = OutputName | str | Sequence[OutputName | str]
DataTypeName = Literal["float32", "float16", "bfloat16"]
DATA_TYPES: tuple[DataTypeName, ...] = get_args(DataTypeName)
InitialState = State | tuple[Any, Any]  # the pair: hidden and cell, as torch.nn.LSTM takes them

# Headers of a call: one value of each name, or pairs where a name has several.
Metadata = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]

FilePath = str | os.PathLike[str]
TlsFrom = bool | FilePath | bytes  # whether there is TLS, or a CA's certificates: a file, or PEM
CertificateFiles = tuple[FilePath, FilePath]  # a certificate, and its key
TokenFrom = str | Callable[[], str] | os.PathLike[str]  # the token, what returns it, or its file

DEFAULT_IN_FLIGHT = 64  # sequences of a stream
OnError = Literal["raise", "return"]
Raise = Literal["raise"]
Return = Literal["return"]
Pairs = Iterable[tuple[K, Any]]  # of keys and sequences
AsyncPairs = Pairs[K] | AsyncIterable[tuple[K, Any]]
AsyncSource = Iterable[Any] | AsyncIterable[Any]
SaveStates = Callable[[Any], FilePath | None]  # None: they stay in memory


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
    """Steps whose results have come. What is of the whole sequence comes at once, in the end."""


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
