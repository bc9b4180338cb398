"""Sweeps over all rows of long sequences on one grid, from the first to the last."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ..graph import SequenceEncoder
from ..layers.interface import Accumulator, WholeLayer
from .pulling import Values
from .stages import Node, SweepStage


class Sweep:
    """One sequence's way through a sweep. It holds in host memory what its layers accumulate, and
    its outputs."""

    def __init__(self, encoder: SequenceEncoder, stage: SweepStage, values: Values):
        self._stage = stage
        self._values = values
        self._rows = values.rows(stage.grid)
        self._readers = [_Reader(node, values, self._rows, encoder.dtype) for node in stage.wholes]
        self._outputs: dict[str, Tensor] = {}
        self._bound = 0

    @property
    def done(self) -> bool:
        return self._bound == self._rows

    @property
    def key(self) -> Hashable:
        """What runs have in common that share a slice."""
        return self._stage.key()

    @property
    def tokens_left(self) -> int:
        """The rows that are still to do."""
        return self._rows - self._bound

    @property
    def reads_values(self) -> bool:
        """Whether it still reads what other layers give."""
        return not self.done

    def results(self) -> dict[str, Tensor]:
        """The values that are held of it, once it is done."""
        given = dict(self._outputs)
        for reader in self._readers:
            given |= reader.results()
        return given

    # -- for `sweep_together` --------------------------------------------------------------------

    def read(self, rows: int) -> dict[str, Tensor]:
        """Read up to so many more rows of all that is needed, into host memory."""
        stop = min(self._bound + rows, self._rows)
        pulled = self._values.pull(self._stage.route, self._bound, stop)
        return {name: rows.cpu() for name, rows in pulled.items()}

    def store(self, read: Mapping[str, Tensor], rows: int) -> None:
        """Keep what is needed of them. Storing them again does no harm."""
        start, stop = self._bound, min(self._bound + rows, self._rows)
        for name in self._stage.outputs:
            own = read[name]
            if name not in self._outputs:
                self._outputs[name] = own.new_empty(self._rows, *own.shape[1:])
            self._outputs[name][start:stop] = own
        for reader in self._readers:
            reader.add(start, stop, read)

    def move(self, rows: int) -> None:
        """Note that these rows are done."""
        self._bound = min(self._bound + rows, self._rows)


class _Reader:
    """A layer that reads the whole sequence, and how far it has."""

    def __init__(self, node: Node, values: Values, rows: int, dtype: torch.dtype):
        self._node = node
        self._has_rows = [values.is_per_step(reference) for reference in node.reads]
        module = cast(WholeLayer, values.modules[node.name])
        self._accumulator: Accumulator = module.sliced(rows, dtype)
        self._read = 0

    def add(self, start: int, stop: int, read: Mapping[str, Tensor]) -> None:
        """Add those rows that it has not had: a slice that failed elsewhere comes again."""
        if stop <= self._read:
            return
        skipped = self._read - start
        rows = [
            read[reference][skipped:] if has_rows else read[reference]
            for reference, has_rows in zip(self._node.reads, self._has_rows, strict=True)
        ]
        self._accumulator.add(self._read, *rows)
        self._read = stop

    def results(self) -> dict[str, Tensor]:
        return dict(zip(self._node.gives, self._accumulator.result(), strict=False))


def sweep_together(sweeps: Sequence[Sweep], rows: int) -> None:
    """Go on by up to so many rows in each. If it raises, none has moved."""
    read = [sweep.read(rows) for sweep in sweeps]
    for sweep, own in zip(sweeps, read, strict=True):
        sweep.store(own, rows)
    for sweep in sweeps:
        sweep.move(rows)
