"""A sequence of any length on its way through the graph, a slice of steps at a time.

With the cpu kernel the results have the same bits as the whole sequence's. Owns a run's progress;
whose turn it is, and for how long, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import cast

import torch
from torch import Tensor

from ..bilstm import States
from ..config import STATE
from ..graph import SequenceEncoder
from .pulling import ReadSteps, Values
from .recurrence import SLICE_UNIT, Recurrence, run_together
from .stages import LstmStage, plan_stages
from .sweep import Sweep, sweep_together

__all__ = ["SLICE_UNIT", "SlicedRun", "advance"]


class SlicedRun:
    """One long sequence of T steps, stage by stage: each LSTM layer by layer, and between them a
    sweep where a layer reads whole sequences or an output has a row for each step.

    What later stages read it holds in host memory, and no longer than they do: the outputs of
    LSTMs, but what is a function of a few rows is computed from those where it is read.
    """

    def __init__(
        self,
        encoder: SequenceEncoder,
        read_steps: ReadSteps,
        steps: int,
        outputs: Collection[str],
        hx: States | None = None,
    ):
        """`read_steps(start, stop)` gives steps of the sequence, [n, width] of the encoder's type
        or ids [n] for each input, on its device. `steps` is T, at least `config.min_steps`; `hx`
        is [L*K, P] and [L*K, H] for the model's only LSTM, its own if None.

        Raises `KeyError` for an output that the model does not have.
        """
        self.encoder = encoder
        self._outputs = tuple(outputs)
        self._hx = hx
        self._plan = plan_stages(encoder.config, outputs)
        modules = {step.config.name: step.module for step in encoder.plan(frozenset(outputs))}
        self._values = Values(encoder, modules, self._plan.inputs, read_steps, steps)
        self._index = 0  # of the stage that runs, or is to begin
        self._running: Recurrence | Sweep | None = None
        self._wanted = {encoder.config.outputs[name] for name in outputs if name != STATE}
        self._found: dict[str, Tensor] = {}  # of what is wanted
        self._state: States | None = None  # of the LSTM that ran last

    @property
    def done(self) -> bool:
        """Whether all stages are done."""
        return self._next == len(self._plan.stages)

    @property
    def stage(self) -> Hashable:
        """What is computed next. Runs of one encoder can advance together where it is equal."""
        if self._running is not None and not self._running.done:
            return self._running.key
        return None if self.done else self._plan.stages[self._next].key()

    @property
    def stages(self) -> int:
        """How often the sequence is gone through: once for each layer of an LSTM, and each
        sweep."""
        return sum(stage.times for stage in self._plan.stages)

    @property
    def tokens_left(self) -> int:
        """The tokens that are still to do: rows of stages."""
        running = 0 if self._running is None else self._running.tokens_left
        later = self._plan.stages[self._index + (self._running is not None) :]
        return running + sum(stage.times * self._values.rows(stage.grid) for stage in later)

    @torch.inference_mode()
    def encodings(self) -> dict[str, Tensor]:
        """What `SequenceEncoder.forward` returns for a batch of this one sequence, in host memory.
        Raises `ValueError` until done."""
        if not self.done:
            raise ValueError("the sequence is not encoded yet")
        self._conclude()
        ending = self._values.pull(self._plan.ending, 0, 1)
        found = self._found | {name: row.cpu() for name, row in ending.items()}
        references = self.encoder.config.outputs
        encodings = {name: found[references[name]] for name in self._outputs if name != STATE}
        if STATE in self._outputs:
            assert self._state is not None
            encodings["hidden"], encodings["cell"] = self._state
        return encodings

    # -- for `advance` -------------------------------------------------------------------------

    def enter(self) -> Recurrence | Sweep:
        """The stage to go on with, which begins if none runs."""
        self._conclude()
        if self._running is None:
            stage = self._plan.stages[self._index]
            if isinstance(stage, LstmStage):
                self._running = Recurrence(self.encoder, stage, self._values, self._hx)
            else:
                self._running = Sweep(self.encoder, stage, self._values)
        return self._running

    def let_go(self) -> None:
        """Let go of what nothing reads any more."""
        if self._running is not None and not self._running.reads_values:
            self._values.drop(self._plan.done[self._index])

    def _conclude(self) -> None:
        """Take over the results of the stage if it is done."""
        if self._running is None or not self._running.done:
            return
        results = self._running.results()
        if isinstance(self._running, Recurrence):
            self._state = self._running.state()
        self._found |= {name: results[name] for name in self._wanted & results.keys()}
        self._values.held |= results
        self._values.drop(self._plan.done[self._index])
        self._running = None
        self._index += 1

    @property
    def _next(self) -> int:
        return self._index + (self._running is not None and self._running.done)


@torch.inference_mode()
def advance(runs: Sequence[SlicedRun], steps: int) -> int:
    """Run up to `steps` more steps (a multiple of `SLICE_UNIT` of them, at least that) of every
    run's stage: of an LSTM's layer in each direction, in one call of the kernel.

    Returns the tokens that this was: rows of a stage, in all its directions. Raises `ValueError`
    if there is no run, if one is done, or if they are of several encoders or at several stages. If
    it raises, no run has moved.
    """
    if len({(run.encoder, run.stage) for run in runs}) != 1 or any(run.done for run in runs):
        raise ValueError("runs must be of one encoder, at one stage, and not done")
    steps = max(steps // SLICE_UNIT, 1) * SLICE_UNIT
    left = sum(run.tokens_left for run in runs)
    running = [run.enter() for run in runs]
    if isinstance(running[0], Recurrence):
        run_together(cast(Sequence[Recurrence], running), steps)
    else:
        sweep_together(cast(Sequence[Sweep], running), steps)
    for run in runs:
        run.let_go()
    return left - sum(run.tokens_left for run in runs)
