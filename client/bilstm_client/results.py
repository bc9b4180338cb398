"""What calls return of a sequence: its results, or a part of them. Plain, immutable values over
numpy arrays, in which what was not requested is missed in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import NotRequested, SequenceFailure

Array = NDArray[Any]
K = TypeVar("K")
OutputName = Literal["states", "final", "mean", "max", "logits", "state"]
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The state of an LSTM, its rows ordered as torch.nn.LSTM's: layer by layer, forward first."""

    hidden: Array
    """The output of each layer and direction: [layers*K, P]."""
    cell: Array
    """The cell state of each layer and direction: [layers*K, H]."""

    def __repr__(self) -> str:
        return f"State(hidden={_brief(self.hidden)}, cell={_brief(self.cell)})"


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the server's time for one request went, and how large the batch was."""

    queue_seconds: float
    """Seconds from when the request was admitted until its batch was begun."""
    compute_seconds: float
    """Seconds that the batch took."""
    batch_sequences: int
    """The sequences of the batch, of all callers."""
    batch_tokens: int
    """The steps of the batch, of all callers."""


class Encoding:
    """The results of one sequence: an attribute for each output that was requested.

    One that was not raises `NotRequested`, an `AttributeError`: so `hasattr` says False of it, and
    `getattr(encoding, "logits", None)` gives None.
    """

    __slots__ = ("_in_chunks", "_outputs", "_timing")

    def __init__(
        self,
        timing: Timing,
        states: Array | None = None,
        final: Array | None = None,
        mean: Array | None = None,
        max: Array | None = None,  # noqa: A002 - the output's name
        logits: Array | None = None,
        state: State | None = None,
        *,
        in_chunks: bool = False,
    ) -> None:
        """`in_chunks`: its states came in chunks, before it."""
        self._timing = timing
        self._in_chunks = in_chunks
        values = zip(OUTPUTS, (states, final, mean, max, logits, state), strict=True)
        self._outputs: dict[OutputName, Any] = {k: v for k, v in values if v is not None}

    @property
    def timing(self) -> Timing:
        """Where the server's time for the request went."""
        return self._timing

    @property
    def outputs(self) -> tuple[OutputName, ...]:
        """The names of the outputs that this encoding has."""
        return tuple(self._outputs)

    @property
    def states(self) -> Array:
        """The top layer's output at every step: [T, K*P], for T steps and K directions of width P
        (`proj_size` or `hidden_size`). K is 2 for a bidirectional model, else 1.
        """
        return self._array("states")

    @property
    def final(self) -> Array:
        """The forward direction at the last step and the backward one at the first, joined: [K*P].

        This is the last that each direction has computed. K is 2 for a bidirectional model.
        """
        return self._array("final")

    @property
    def mean(self) -> Array:
        """The mean of the states over all steps: [K*P], for K directions of width P."""
        return self._array("mean")

    @property
    def max(self) -> Array:
        """The largest of the states over all steps: [K*P], for K directions of width P."""
        return self._array("max")

    @property
    def logits(self) -> Array:
        """The scores of the model's head: [classes], in the order of `Model.labels`."""
        return self._array("logits")

    @property
    def state(self) -> State:
        """The LSTM's state after the last step: what the next piece of a sequence begins with."""
        state: State = self._output("state")
        return state

    def __repr__(self) -> str:
        parts = (f"{name}={_brief(value)}" for name, value in self._outputs.items())
        return f"Encoding({', '.join(parts)})"

    def _array(self, name: OutputName) -> Array:
        array: Array = self._output(name)
        return array

    def _output(self, name: OutputName) -> Any:
        if name not in self._outputs:
            if name == "states" and self._in_chunks:
                message = "states: encode_chunks yields them in its chunks, if they are requested"
                raise NotRequested(message, name)
            raise _not_requested(name, self._outputs)
        return self._outputs[name]


class EncodingChunk(Generic[K]):
    """A part of one sequence's results. All its chunks' states, joined, are the sequence's."""

    __slots__ = (
        *("_encoding", "_error", "_first_step", "_forward_exact"),
        *("_key", "_last", "_reverse_exact", "_states"),
    )

    def __init__(
        self,
        key: K,
        first_step: int,
        states: Array | None,
        last: bool,
        forward_exact: bool,
        reverse_exact: bool,
        encoding: Encoding | None = None,
        error: SequenceFailure | None = None,
    ) -> None:
        self._key, self._first_step, self._states, self._last = key, first_step, states, last
        self._forward_exact, self._reverse_exact = forward_exact, reverse_exact
        self._encoding, self._error = encoding, error

    @property
    def key(self) -> K:
        """The key of the sequence's pair; without pairs its place in the source."""
        return self._key

    @property
    def first_step(self) -> int:
        """The step of the sequence that the first row of `states` belongs to, from 0 on."""
        return self._first_step

    @property
    def states(self) -> Array:
        """The states of t steps that follow one another: [t, K*P], as `Encoding.states`.

        Raises `NotRequested` if they were not requested, and where there is an `error` that.
        """
        if self._error is not None:
            raise self._error
        if self._states is None:
            raise _not_requested("states")
        return self._states

    @property
    def last(self) -> bool:
        """Whether nothing more comes for this key."""
        return self._last

    @property
    def forward_exact(self) -> bool:
        """Whether the forward direction's columns are what they are where the whole sequence is
        known: they always are, but in live streams.
        """
        return self._forward_exact

    @property
    def reverse_exact(self) -> bool:
        """Whether the backward direction's columns are what they are where the whole sequence is
        known: they always are, but in live streams.
        """
        return self._reverse_exact

    @property
    def encoding(self) -> Encoding | None:
        """All that was requested but the states, in the last chunk of a sequence; else None."""
        return self._encoding

    @property
    def error(self) -> SequenceFailure | None:
        """Why there are no results from here on, in the last chunk of a sequence that has failed;
        else None. There is one only with `on_error="return"`.
        """
        return self._error

    def __repr__(self) -> str:
        parts = [f"key={self.key!r}, first_step={self.first_step}, states={_brief(self._states)}"]
        parts += [f"last={self.last}", f"forward_exact={self.forward_exact}"]
        parts += [f"reverse_exact={self.reverse_exact}"]
        if self.encoding is not None and self.encoding.outputs:
            parts.append(f"encoding={self.encoding!r}")
        parts += [f"error={self.error!r}"] if self.error is not None else []
        return f"EncodingChunk({', '.join(parts)})"


def _not_requested(name: OutputName, others: Iterable[OutputName] = ()) -> NotRequested:
    return NotRequested(f"{name}: not requested; give outputs={[*others, name]}", name)


def _brief(value: Any) -> str:
    """Type and shape of an array, not its numbers: `float32[7, 128]`."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)
