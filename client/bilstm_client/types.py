"""What calls return: plain, immutable values over numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
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


def _brief(value: Any) -> str:
    """Type and shape of an array, not its numbers: `float32[7, 128]`."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request must keep."""

    max_message_bytes: int
    max_sequence_tokens: int
    max_request_sequences: int
    max_request_tokens: int


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
