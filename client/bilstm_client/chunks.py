"""`EncodingChunk`: a part of one sequence's results, as a stream yields them while they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

from .errors import NotRequested, SequenceFailure
from .results import Array, Encoding, K, NamedResults, brief, not_requested


class EncodingChunk(NamedResults, Generic[K]):
    """A part of one sequence's results: of each output that has rows for its steps, some rows, by
    its name, as in `chunk["upos"]`. The rows of all its chunks, joined, are the sequence's.

    An output without such rows, or that was not requested, raises `NotRequested`, and where there
    is an `error` that is raised.
    """

    __slots__ = (
        *("_encoding", "_error", "_first_step", "_forward_exact"),
        *("_key", "_last", "_reverse_exact"),
    )

    def __init__(
        self,
        key: K,
        first_step: int,
        rows: Mapping[str, Array],
        last: bool,
        forward_exact: bool,
        reverse_exact: bool,
        encoding: Encoding | None = None,
        error: SequenceFailure | None = None,
        label_names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """`rows`: of each output that has some in every chunk."""
        super().__init__(rows, label_names or {})
        self._key, self._first_step, self._last = key, first_step, last
        self._forward_exact, self._reverse_exact = forward_exact, reverse_exact
        self._encoding, self._error = encoding, error

    @property
    def key(self) -> K:
        """The key of the sequence's pair; without pairs its place in the source."""
        return self._key

    @property
    def first_step(self) -> int:
        """The step of the sequence that the first row belongs to, from 0 on. An output with fewer
        rows than steps is counted by its own rows.
        """
        return self._first_step

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs that this chunk has rows of."""
        return tuple(self._outputs)

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
        """All that was requested and is of the whole sequence, in its last chunk; else None."""
        return self._encoding

    @property
    def error(self) -> SequenceFailure | None:
        """Why there are no results from here on, in the last chunk of a sequence that has failed;
        else None. There is one only with `on_error="return"`.
        """
        return self._error

    def __repr__(self) -> str:
        parts = [f"key={self.key!r}, first_step={self.first_step}"]
        parts += [f"{name}={brief(rows)}" for name, rows in self._outputs.items()]
        parts += [f"last={self.last}", f"forward_exact={self.forward_exact}"]
        parts += [f"reverse_exact={self.reverse_exact}"]
        if self.encoding is not None and self.encoding.outputs:
            parts.append(f"encoding={self.encoding!r}")
        parts += [f"error={self.error!r}"] if self.error is not None else []
        return f"EncodingChunk({', '.join(parts)})"

    def _missing(self, name: str) -> Any:
        if self._error is not None:
            return self._error
        if self._encoding is not None and name in self._encoding:
            return NotRequested(f"{name}: is of the whole sequence: chunk.encoding has it", name)
        return not_requested(name, self._outputs)
