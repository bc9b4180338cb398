"""What calls return: plain, immutable values over numpy arrays."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import SequenceFailure

Array = NDArray[Any]
K = TypeVar("K")
OutputName = Literal["states", "final", "mean", "max", "logits", "state"]
DataTypeName = Literal["float32", "float16", "bfloat16"]
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
DATA_TYPES: tuple[DataTypeName, ...] = get_args(DataTypeName)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """An LSTM's state, rows ordered as torch.nn.LSTM's: layer by layer, forward then reverse."""

    hidden: Array  # [layers*K, P]
    cell: Array  # [layers*K, H]

    def __repr__(self) -> str:
        return f"State(hidden={_brief(self.hidden)}, cell={_brief(self.cell)})"


InitialState = State | tuple[Any, Any]  # the pair: hidden and cell, as torch.nn.LSTM takes them


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the server's time for one request went."""

    queue_seconds: float
    compute_seconds: float
    batch_sequences: int  # of all callers, computed together
    batch_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """One sequence's results; what was not asked for is None.

    T is its steps, P one direction's width (proj_size or hidden_size), K the directions.
    """

    timing: Timing
    states: Array | None = None  # [T, K*P]
    final: Array | None = None  # [K*P]
    mean: Array | None = None  # [K*P]
    max: Array | None = None  # [K*P]
    logits: Array | None = None  # [classes]
    state: State | None = None

    def __repr__(self) -> str:
        given = ((name, getattr(self, name)) for name in OUTPUTS)
        parts = (f"{name}={_brief(value)}" for name, value in given if value is not None)
        return f"Encoding({', '.join(parts)})"


@dataclass(frozen=True, slots=True, eq=False)
class EncodingChunk(Generic[K]):
    """A part of one sequence's results. All chunks' states, joined, are the sequence's."""

    key: K  # of the pair; without pairs the sequence's place in the source
    first_step: int  # of states
    states: Array | None  # [t, K*P]; None if they were not asked for, and with an error
    last: bool  # nothing more comes for this key
    # Whether each direction's columns are what they are where the whole sequence is known: they
    # always are, but in live streams.
    forward_exact: bool
    reverse_exact: bool
    encoding: Encoding | None = None  # in the last chunk: all that was asked for but the states
    # Why there are no results from here on; this chunk is the last.
    error: SequenceFailure | None = None

    def __repr__(self) -> str:
        parts = [f"key={self.key!r}, first_step={self.first_step}, states={_brief(self.states)}"]
        parts += [f"last={self.last}", f"forward_exact={self.forward_exact}"]
        parts += [f"reverse_exact={self.reverse_exact}"]
        parts += [f"encoding={self.encoding!r}"] if self.encoding is not None else []
        parts += [f"error={self.error!r}"] if self.error is not None else []
        return f"EncodingChunk({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Live:
    """Results are sent while input still arrives, a block of steps at a time.

    The forward direction is carried from block to block; the reverse one begins anew at the end
    of each block and the `lookahead_steps` after it (latency-controlled BiLSTM: Zhang et al. 2015,
    arXiv 1510.08983). A block's result comes when its look-ahead has arrived, or the last step.
    """

    block_steps: int  # at least 1
    lookahead_steps: int = 0

    def __post_init__(self) -> None:
        whole_number(self.block_steps, "block_steps", 1)
        whole_number(self.lookahead_steps, "lookahead_steps", 0)


OnError = Literal["raise", "return"]
DEFAULT_IN_FLIGHT = 64  # sequences


class StreamKeywords(TypedDict, total=False):
    """What every stream can be told: see `Client.encode_stream`."""

    in_flight: int  # DEFAULT_IN_FLIGHT
    ordered: bool  # True
    outputs: Sequence[OutputName]  # ("states",)
    model: str  # ""
    version: str  # ""
    output_data_type: DataTypeName  # "float32"
    timeout_seconds: float | None  # None


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


def _brief(value: Any) -> str:
    """Type and shape of an array, not its numbers: `float32[7, 128]`."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request must keep, and a stream."""

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
