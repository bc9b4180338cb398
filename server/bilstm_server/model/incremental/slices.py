"""A sequence of any length on its way through the layers, a slice of steps at a time.

With the cpu kernel the results have the same bits as the whole sequence's: states are carried
without rounding, and no slice divides a segment of the pooling. Owns a run's progress; whose turn
it is, and for how long, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ..bilstm import States
from ..config import Output
from ..encoder import POOLED, Encodings, SequenceEncoder
from ..kernels import DirectionInput, RaggedBatch, rounded, state_type
from ..pooling import SEGMENT_STEPS, SlicedPooling

SLICE_UNIT = SEGMENT_STEPS  # steps

ReadSteps = Callable[[int, int], Tensor]


class SlicedRun:
    """One long sequence of T steps, layer by layer. In each the forward direction goes on from the
    first step, the backward one from the last.

    It holds a layer's input and output [T, K*P] in host memory: layer 0's input as long as `layer`
    is 0, and the top layer's output only where states are asked for.
    """

    def __init__(
        self,
        encoder: SequenceEncoder,
        read_steps: ReadSteps,
        steps: int,
        outputs: Collection[Output],
        hx: States | None = None,
    ):
        """`read_steps(start, stop)` gives steps of the sequence, [n, input_size] or token ids [n],
        of the encoder's type and on its device. `steps` is T, at least 1; `hx` is [layers*K, P] and
        [layers*K, H], zeros if None.

        Raises `ValueError` if logits are asked of a model without a head.
        """
        self.encoder = encoder
        self.layer = 0
        self.done = False
        self.layers = encoder.layers()
        self._read_steps: ReadSteps | None = read_steps
        self._steps = steps
        self._outputs = frozenset(outputs)
        poolings = {pooling for output, pooling in POOLED.items() if output in outputs}
        if Output.LOGITS in outputs:
            poolings.add(encoder.head_pooling())
        width = encoder.config.encoding_size
        self._pooling = SlicedPooling(poolings, steps, width, encoder.dtype)
        self._states = _initial_states(encoder, hx)
        self._input: Tensor | None = None  # of a layer after the first
        self._output: Tensor | None = None
        # Where the forward direction goes on, and what the backward one has come to (0: none).
        self._first_bounds = (0, steps if encoder.config.bidirectional else 0)
        self._bounds = self._first_bounds

    def encodings(self) -> Encodings:
        """The outputs of a batch of this one sequence, in host memory. Raises `ValueError` until
        done.
        """
        if not self.done:
            raise ValueError("the sequence is not encoded yet")
        h_n, c_n = (
            rounded(
                torch.cat([states[kind] for layer in self._states for states in layer]),
                self.encoder.dtype,
            )
            .cpu()
            .unsqueeze(1)
            for kind in (0, 1)
        )  # [layers*K, 1, …]
        top = h_n[-self.encoder.config.num_directions :]
        encodings = Encodings(states=self._output)
        for output, pooling in POOLED.items():
            if output in self._outputs:
                setattr(encodings, output.value, self._pooling.result(pooling, top))
        if Output.LOGITS in self._outputs:
            pooled = self._pooling.result(self.encoder.head_pooling(), top)
            encodings.logits = self.encoder.classify(pooled.to(self.encoder.device)).cpu()
        if Output.STATE in self._outputs:
            encodings.state = (h_n, c_n)
        return encodings

    # -- for `advance` -------------------------------------------------------------------------

    @property
    def tokens_left(self) -> int:
        """The tokens that are still to do: steps of layers, in all their directions."""
        forward, backward = self._bounds
        left = self._steps - forward + backward
        layers_after = len(self.layers) - 1 - self.layer
        return layers_after * self._steps + ceil(left / self.encoder.config.num_directions)

    @property
    def is_top(self) -> bool:
        return self.layer == len(self.layers) - 1

    def next_slice(self, direction: int, steps: int) -> tuple[int, int]:
        """Give where up to `steps` more steps begin and end. They are cut at units from the
        sequence's first step; the backward direction's first ones take the rest of a unit in
        addition.
        """
        forward, backward = self._bounds
        if direction == 0:
            return forward, min(forward + steps, self._steps)
        return max(backward // SLICE_UNIT * SLICE_UNIT - steps, 0), backward

    def read(self, start: int, stop: int) -> Tensor:
        """Read the layer's input of some steps: [n, D], on the encoder's device."""
        if self._read_steps is not None:
            return self.encoder.embed(self._read_steps(start, stop))
        assert self._input is not None
        return self._input[start:stop].to(self.encoder.device)

    def states_of(self, direction: int) -> States:
        """The states h [1, P] and c [1, H] that a direction has come to."""
        return self._states[self.layer][direction]

    def store(self, direction: int, start: int, y: Tensor) -> None:
        """Keep what is needed of a slice's outputs [n, P]. Storing it again does no harm."""
        column = direction * y.shape[1]
        if self.is_top:
            self._pooling.add(y, start, column)
        if not self.is_top or Output.STATES in self._outputs:
            if self._output is None:
                shape = (self._steps, self.encoder.config.encoding_size)
                self._output = torch.empty(shape, dtype=self.encoder.dtype)
            self._output[start : start + len(y), column : column + y.shape[1]] = y

    def move(self, direction: int, bound: int, states: States) -> None:
        """Note that the direction has come to `bound`, in `states`."""
        forward, backward = self._bounds
        self._bounds = (bound, backward) if direction == 0 else (forward, bound)
        self._states[self.layer][direction] = states
        if self._bounds != (self._steps, 0):
            return
        self._read_steps = self._input = None
        if self.is_top:
            self.done = True
            return
        self._input, self._output = self._output, None
        self._bounds = self._first_bounds
        self.layer += 1


class _Slice(NamedTuple):
    """The next steps of a run in one direction."""

    run: SlicedRun
    start: int
    stop: int


@torch.inference_mode()
def advance(runs: Sequence[SlicedRun], steps: int) -> int:
    """Run up to `steps` more steps (a multiple of `SLICE_UNIT` of them, at least that) of each
    direction of every run, in one call of the kernel.

    Returns the tokens that this was: steps of a layer, in all its directions. Raises `ValueError`
    if there is no run, if one is done, or if they are of several encoders or at several layers. If
    it raises, no run has moved.
    """
    if len({(run.encoder, run.layer) for run in runs}) != 1 or any(run.done for run in runs):
        raise ValueError("runs must be of one encoder, at one layer, and not done")
    layer = runs[0].layers[runs[0].layer]
    steps = max(steps // SLICE_UNIT, 1) * SLICE_UNIT
    slices = [
        _slices(runs, direction, steps)
        for direction in range(runs[0].encoder.config.num_directions)
    ]
    results = layer.per_direction([_part(direction, own) for direction, own in enumerate(slices)])
    moves: list[tuple[SlicedRun, int, int, States]] = []
    for direction, (own, result) in enumerate(zip(slices, results, strict=True)):
        if result is None:
            continue
        y, (h_n, c_n) = result[0].cpu(), result[1:]
        row = 0
        for index, (run, start, stop) in enumerate(own):
            run.store(direction, start, y[row : row + stop - start])
            row += stop - start
            states = (h_n[index : index + 1], c_n[index : index + 1])
            moves.append((run, direction, start if direction else stop, states))
    left = sum(run.tokens_left for run in runs)
    for run, direction, bound, states in moves:
        run.move(direction, bound, states)
    return left - sum(run.tokens_left for run in runs)


def _slices(runs: Sequence[SlicedRun], direction: int, steps: int) -> list[_Slice]:
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


def _initial_states(encoder: SequenceEncoder, hx: States | None) -> list[list[States]]:
    """By layer and direction: [1, P] and [1, H]"""
    config = encoder.config
    h, c = (
        torch.zeros(
            config.state_rows, 1, width, dtype=state_type(encoder.dtype), device=encoder.device
        )
        for width in (config.state_size, config.hidden_size)
    )
    if hx is not None:
        h.copy_(hx[0].unsqueeze(1))
        c.copy_(hx[1].unsqueeze(1))
    rows = list(zip(h, c, strict=True))
    count = config.num_directions
    return [rows[first : first + count] for first in range(0, len(rows), count)]
