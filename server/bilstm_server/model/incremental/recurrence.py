"""Long sequences on their way through an LSTM, layer by layer: in each the forward direction from
the first step on, the backward one from the last.

States are carried without rounding, so that with the cpu kernel the results have the same bits as
the whole sequence's.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from math import ceil
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..bilstm import States
from ..graph import SequenceEncoder
from ..kernels import DirectionInput, RaggedBatch, rounded, state_type
from ..layers.lstm import Lstm
from ..layers.pooling import Pooling
from ..layers.segments import SEGMENT_STEPS
from .pulling import Values
from .stages import LstmStage

SLICE_UNIT = SEGMENT_STEPS  # steps


class Recurrence:
    """One sequence's way through an LSTM. It holds a layer's input and output [T, K*P] in host
    memory, and the top layer's output only where something else than a pooling reads it."""

    def __init__(
        self, encoder: SequenceEncoder, stage: LstmStage, values: Values, hx: States | None
    ):
        """`hx` is [L*K, P] and [L*K, H]; the LSTM's own if None."""
        self.lstm = cast(Lstm, values.modules[stage.lstm.name])
        self.layer = 0
        self.done = False
        self._stage = stage
        self._values = values
        self._dtype = encoder.dtype
        self._device = encoder.device
        self._steps = values.rows(stage.grid)
        self._states = _initial_states(self.lstm, hx, encoder)
        self._input: Tensor | None = None  # of a layer after the first
        self._output: Tensor | None = None
        self._poolings = [
            cast(Pooling, values.modules[node.name]).sliced(self._steps, encoder.dtype)
            for node in stage.poolings
        ]
        # By direction: whether it goes from the last step to the first, and where it has come to.
        config = self.lstm.config
        self._backward = (False, True) if config.bidirectional else (config.reverse,)
        self._bounds = self._first_bounds

    @property
    def key(self) -> Hashable:
        """What runs have in common that share a slice."""
        return self._stage.key(self.layer)

    @property
    def tokens_left(self) -> int:
        """The tokens that are still to do: steps of layers, in all their directions."""
        if self.done:
            return 0
        left = sum(
            bound if backward else self._steps - bound
            for bound, backward in zip(self._bounds, self._backward, strict=True)
        )
        layers_after = self.lstm.num_layers - 1 - self.layer
        return layers_after * self._steps + ceil(left / len(self._bounds))

    @property
    def reads_values(self) -> bool:
        """Whether it still reads what other layers give."""
        return self.layer == 0 and not self.done

    def results(self) -> dict[str, Tensor]:
        """The values that are held of it, once it is done."""
        given: dict[str, Tensor] = {}
        name, *parts = self._stage.lstm.gives
        if self._output is not None:
            given[name] = self._output
        given |= zip(parts, (s.transpose(0, 1).flatten(1) for s in self.state()), strict=False)
        for node, pooling in zip(self._stage.poolings, self._poolings, strict=True):
            given |= zip(node.gives, pooling.result(), strict=False)
        return given

    def state(self) -> States:
        """The final states [L*K, 1, P] and [L*K, 1, H], in host memory."""
        h_n, c_n = (
            torch.cat([states[kind] for layer in self._states for states in layer])
            for kind in (0, 1)
        )
        return _on_host(h_n, self._dtype), _on_host(c_n, self._dtype)

    # -- for `run_together` ----------------------------------------------------------------------

    def next_slice(self, direction: int, steps: int) -> tuple[int, int]:
        """Give where up to `steps` more steps begin and end. They are cut at units from the
        sequence's first step; the backward direction's first ones take the rest of a unit in
        addition.
        """
        bound = self._bounds[direction]
        if self._backward[direction]:
            return max(bound // SLICE_UNIT * SLICE_UNIT - steps, 0), bound
        return bound, min(bound + steps, self._steps)

    def read(self, start: int, stop: int) -> Tensor:
        """Read the layer's input of some steps: [n, D], on the encoder's device."""
        if self.layer == 0:
            (x,) = self._values.pull(self._stage.route, start, stop).values()
        else:
            assert self._input is not None
            x = self._input[start:stop].to(self._device)
        return self._turned(x)

    def states_of(self, direction: int) -> States:
        """The states h [1, P] and c [1, H] that a direction has come to."""
        return self._states[self.layer][direction]

    def store(self, direction: int, start: int, y: Tensor) -> None:
        """Keep what is needed of a slice's outputs [n, P]. Storing it again does no harm."""
        column = direction * y.shape[1]
        y = self._turned(y)
        if self._is_top:
            for pooling in self._poolings:
                pooling.add(start, y, column)
        if not self._is_top or self._stage.holds:
            if self._output is None:
                shape = (self._steps, len(self._bounds) * y.shape[1])
                self._output = torch.empty(shape, dtype=self._dtype)
            self._output[start : start + len(y), column : column + y.shape[1]] = y

    def move(self, direction: int, start: int, stop: int, states: States) -> None:
        """Note that the direction has run these steps, and come to `states`."""
        self._bounds[direction] = start if self._backward[direction] else stop
        self._states[self.layer][direction] = states
        ends = [0 if backward else self._steps for backward in self._backward]
        if self._bounds != ends:
            return
        self._input = None
        if self._is_top:
            self.done = True
            return
        self._input, self._output = self._output, None
        self._bounds = self._first_bounds
        self.layer += 1

    @property
    def _is_top(self) -> bool:
        return self.layer == self.lstm.num_layers - 1

    @property
    def _first_bounds(self) -> list[int]:
        return [self._steps if backward else 0 for backward in self._backward]

    def _turned(self, rows: Tensor) -> Tensor:
        """The only direction of a `reverse` LSTM reads and gives the last step first."""
        return rows.flip(0) if self.lstm.config.reverse else rows


class _Slice(NamedTuple):
    """The next steps of a recurrence in one direction."""

    run: Recurrence
    start: int
    stop: int


def run_together(runs: Sequence[Recurrence], steps: int) -> None:
    """Run up to `steps` more steps of each direction of every run, all at the same layer, in one
    call of the kernel. If it raises, none has moved."""
    first = runs[0]
    layer = first.lstm.layers()[first.layer]
    slices = [
        _slices(runs, direction, steps) for direction in range(first.lstm.config.num_directions)
    ]
    results = layer.per_direction([_part(direction, own) for direction, own in enumerate(slices)])
    moves: list[tuple[_Slice, int, States]] = []
    for direction, (own, result) in enumerate(zip(slices, results, strict=True)):
        if result is None:
            continue
        y, (h_n, c_n) = result[0].cpu(), result[1:]
        row = 0
        for index, part in enumerate(own):
            count = part.stop - part.start
            part.run.store(direction, part.start, y[row : row + count])
            row += count
            states = (h_n[index : index + 1], c_n[index : index + 1])
            moves.append((part, direction, states))
    for part, direction, states in moves:
        part.run.move(direction, part.start, part.stop, states)


def _slices(runs: Sequence[Recurrence], direction: int, steps: int) -> list[_Slice]:
    bounds = [(run, *run.next_slice(direction, steps)) for run in runs]
    return [_Slice(run, start, stop) for run, start, stop in bounds if start < stop]


def _part(direction: int, slices: Sequence[_Slice]) -> DirectionInput | None:
    if not slices:
        return None
    x = _join([run.read(start, stop) for run, start, stop in slices])
    states = [run.states_of(direction) for run, _, _ in slices]
    batch = _batch(tuple(stop - start for _, start, stop in slices), x.device)
    return DirectionInput(x, batch, _join([h for h, _ in states]), _join([c for _, c in states]))


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


# Slices have one length most of the time.
@lru_cache(maxsize=8)
def _batch(lengths: tuple[int, ...], device: torch.device) -> RaggedBatch:
    return RaggedBatch(lengths, device)


def _initial_states(lstm: Lstm, hx: States | None, encoder: SequenceEncoder) -> list[list[States]]:
    """By layer and direction: [1, P] and [1, H]"""
    config = lstm.config
    dtype, device = state_type(encoder.dtype), encoder.device
    h, c = (
        torch.zeros(config.state_rows, 1, width, dtype=dtype, device=device)
        for width in (config.state_size, config.hidden_size)
    )
    given = lstm.initial_states(1) if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
    if given is not None:
        h.copy_(given[0])
        c.copy_(given[1])
    rows = list(zip(h, c, strict=True))
    count = config.num_directions
    return [rows[first : first + count] for first in range(0, len(rows), count)]


def _on_host(states: Tensor, dtype: torch.dtype) -> Tensor:
    return rounded(states, dtype).cpu().unsqueeze(1)
