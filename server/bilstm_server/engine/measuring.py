"""What a model costs on this machine, by running it.

Runs an `Engine` over made-up sequences in the calling thread. Knows no queue and no server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ..model.config import ModelConfig
from .engine import Engine
from .sequences import SequenceInput

_REPEATS = 3  # of each batch, at the least
_LONG_STEPS = 1_024  # of the one long sequence that is timed


@dataclass(frozen=True, slots=True)
class MeasuredBatch:
    """One batch size, as it was timed in several runs."""

    sequences: int
    tokens: int
    seconds: float  # the shortest run: what others do on the machine only adds to it
    spread: float = 1.0  # how many times as long as the shortest run half of them took, or longer

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model costs on one machine."""

    batches: Sequence[MeasuredBatch]  # the smallest, of one sequence, first
    long_step_seconds: float  # for a step of one long sequence, computed whole

    @property
    def lone_seconds(self) -> float:
        """Seconds to compute one sequence alone."""
        return self.batches[0].seconds

    @property
    def best(self) -> MeasuredBatch:
        """The batch with the most tokens a second."""
        return max(self.batches, key=lambda batch: batch.rate)

    @property
    def spread(self) -> float:
        """The largest spread of a batch."""
        return max(batch.spread for batch in self.batches)


def measure(
    engine: Engine,
    mean_steps: int,
    most_tokens: int,
    most_sequences: int,
    seconds: float,
    progress: Callable[[MeasuredBatch], object] = lambda _: None,
) -> Measured:
    """Time batches of 1, 2, 4 and so on sequences of `mean_steps` in the mean, up to the bounds.

    Takes about `seconds` in all; `progress` is called with each batch. Raises `OutOfMemory`.
    """
    sizes = _sizes(mean_steps, most_tokens, most_sequences)
    share = seconds / (len(sizes) + 1)
    outputs = _outputs(engine.config)
    batches = []
    for size in sizes:
        lengths = _lengths(size, mean_steps)
        sequences = [SequenceInput(_inputs(engine.config, length), outputs) for length in lengths]
        seconds, spread = _time(engine, sequences, share)
        batches.append(MeasuredBatch(size, sum(lengths), seconds, spread))
        progress(batches[-1])
    long = SequenceInput(_inputs(engine.config, _LONG_STEPS), outputs)
    return Measured(batches, _time(engine, [long], share)[0] / _LONG_STEPS)


def _sizes(mean_steps: int, most_tokens: int, most_sequences: int) -> list[int]:
    most = max(1, min(most_tokens // mean_steps, most_sequences))
    sizes = [2**power for power in range(most.bit_length())]
    return sizes if sizes[-1] == most else [*sizes, most]


def _lengths(count: int, mean_steps: int) -> list[int]:
    """Between half and one and a half times the mean; the sum is exact."""
    if count == 1:
        return [mean_steps]
    spread = np.linspace(-0.5, 0.5, count)
    lengths = np.maximum(1, np.rint(mean_steps * (1 + spread))).astype(int)
    np.random.default_rng(0).shuffle(lengths)
    return [int(length) for length in lengths]


def _inputs(config: ModelConfig, steps: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(steps)
    return tuple(
        generator.integers(0, given.ids, steps)
        if given.ids
        else generator.standard_normal((steps, given.value.width), np.float32)
        for given in config.inputs.values()
    )


def _outputs(config: ModelConfig) -> frozenset[str]:
    """What is most asked for of such a model."""
    usual = (name for name in ("labels", "logits", "states") if name in config.outputs)
    return frozenset({next(usual, next(iter(config.outputs)))})


def _time(
    engine: Engine, sequences: Sequence[SequenceInput], seconds: float
) -> tuple[float, float]:
    """The shortest of runs, as many as fit into the time, after one that is not counted; and how
    many times as long the median is."""
    engine.run(sequences)
    took: list[float] = []
    end_at = time.perf_counter() + seconds
    while len(took) < _REPEATS or time.perf_counter() < end_at:
        started_at = time.perf_counter()
        engine.run(sequences)
        took.append(time.perf_counter() - started_at)
    return min(took), median(took) / min(took)
