"""What calls return of a sequence: its results, or a part of them. Plain, immutable values over
numpy arrays, in which what was not requested is missed in words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray

from .errors import NotRequested

Array = NDArray[Any]
K = TypeVar("K")
OutputName = Literal["states", "final", "mean", "max", "logits", "state", "labels", "probabilities"]
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The state of an LSTM, its rows ordered as torch.nn.LSTM's: layer by layer, forward first."""

    hidden: Array
    """The output of each layer and direction: [layers*K, P]."""
    cell: Array
    """The cell state of each layer and direction: [layers*K, H]."""

    def __repr__(self) -> str:
        return f"State(hidden={brief(self.hidden)}, cell={brief(self.cell)})"


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


class NamedResults:
    """Outputs by name. Those that many models have are attributes, too.

    One that was not requested raises `NotRequested`, an `AttributeError` and `KeyError`: so
    `hasattr` and `in` say False of it, and `getattr(results, "logits", None)` gives None.
    """

    __slots__ = ("_label_names", "_outputs")

    def __init__(
        self, outputs: Mapping[str, Any], label_names: Mapping[str, tuple[str, ...]]
    ) -> None:
        """`label_names`: of each of the outputs that is ids, and whose ids have names."""
        self._outputs = dict(outputs)
        self._label_names = dict(label_names)

    @overload
    def __getitem__(self, name: Literal["state"]) -> State: ...  # type: ignore[overload-overlap]
    @overload
    def __getitem__(self, name: str) -> Array: ...
    def __getitem__(self, name: str) -> Any:
        if name not in self._outputs:
            raise self._missing(name)
        return self._outputs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._outputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def names_of(self, output: str) -> tuple[str, ...]:
        """The names that the model has for the ids of an output, from id 0 on; empty without any.

        Raises `NotRequested` for an output that was not requested.
        """
        if output not in self._label_names:
            self[output]
        return self._label_names.get(output, ())

    @property
    def states(self) -> Array:
        """The top layer's output at every step: [T, K*P], for T steps and K directions of width P
        (`proj_size` or `hidden_size`). K is 2 for a bidirectional model, else 1.
        """
        return self["states"]

    @property
    def logits(self) -> Array:
        """The scores of the classes: [C], or at every step, [T, C]."""
        return self["logits"]

    @property
    def probabilities(self) -> Array:
        """The probabilities of the classes: [C], or at every step, [T, C]."""
        return self["probabilities"]

    @property
    def labels(self) -> Array:
        """The class of every step, as integers: [T]; or of the whole sequence, an array of no
        dimensions. Both are indices into `label_names`.
        """
        return self["labels"]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The model's names of its `labels`, from class 0 on; empty if they have none."""
        return self.names_of("labels")

    def _missing(self, name: str) -> NotRequested:
        return not_requested(name, self._outputs)


class Encoding(NamedResults):
    """The results of one sequence: each output that was requested by its name, as in
    `encoding["upos"]`. Those that many models have are attributes, too.

    One that was not requested raises `NotRequested`, an `AttributeError` and `KeyError`: so
    `hasattr` and `in` say False of it, and `getattr(encoding, "logits", None)` gives None.
    """

    __slots__ = ("_in_chunks", "_timing")

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
        named: Mapping[str, Array] | None = None,
        label_names: Mapping[str, tuple[str, ...]] | None = None,
        in_chunks: Collection[str] = (),
    ) -> None:
        """`named`: all other outputs. `in_chunks`: those that came in chunks, before it."""
        values = zip(OUTPUTS, (states, final, mean, max, logits, state), strict=False)
        present: dict[str, Any] = {name: value for name, value in values if value is not None}
        super().__init__({**present, **(named or {})}, label_names or {})
        self._timing = timing
        self._in_chunks = frozenset(in_chunks)

    @property
    def timing(self) -> Timing:
        """Where the server's time for the request went."""
        return self._timing

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs that this encoding has."""
        return tuple(self._outputs)

    @property
    def final(self) -> Array:
        """The forward direction at the last step and the backward one at the first, joined: [K*P].

        This is the last that each direction has computed. K is 2 for a bidirectional model.
        """
        return self["final"]

    @property
    def mean(self) -> Array:
        """The mean of the states over all steps: [K*P], for K directions of width P."""
        return self["mean"]

    @property
    def max(self) -> Array:
        """The largest of the states over all steps: [K*P], for K directions of width P."""
        return self["max"]

    @property
    def state(self) -> State:
        """The LSTM's state after the last step: what the next piece of a sequence begins with."""
        return self["state"]

    def __repr__(self) -> str:
        parts = (f"{name}={brief(value)}" for name, value in self._outputs.items())
        return f"Encoding({', '.join(parts)})"

    def _missing(self, name: str) -> NotRequested:
        if name in self._in_chunks:
            message = f"{name}: encode_chunks yields them in its chunks, if they are requested"
            return NotRequested(message, name)
        return super()._missing(name)


def not_requested(name: str, others: Iterable[str] = ()) -> NotRequested:
    """The error of a result that lacks an output, beside those that it has."""
    return NotRequested(f"{name}: not requested; give outputs={[*others, name]}", name)


def brief(value: Any) -> str:
    """Type and shape of an array, not its numbers: `float32[7, 128]`."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)
