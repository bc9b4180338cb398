"""What a model costs on this machine, by running it, and the settings that suit that.

Runs an `Engine` over made-up sequences in the calling thread. Knows no queue and no server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ..model.config import ModelConfig, Output
from .engine import Engine
from .sequences import SequenceInput

_REPEATS = 3  # of each batch, at the least
_LONG_STEPS = 1_024  # of the one long sequence that is timed
_ROUND_TOKENS = 64  # what recommended numbers are multiples of
_LEAST_RATE = 0.95  # of the best rate, that a recommended batch must reach


@dataclass(frozen=True, slots=True)
class MeasuredBatch:
    """One batch size, as it was timed."""

    sequences: int
    tokens: int
    seconds: float  # the median of several runs

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
    def line(self) -> tuple[float, float]:
        """Seconds of a batch, and seconds more for each token: the line that fits the batches,
        by least squares of relative errors."""
        tokens, seconds = (np.array([getattr(b, n) for b in self.batches]) for n in _COLUMNS)
        if len(tokens) == 1:
            return 0.0, float(seconds[0] / tokens[0])
        per_token, fixed = np.polyfit(tokens, seconds, 1, w=1 / seconds)
        return max(0.0, float(fixed)), max(float(per_token), 1e-12)

    def recommended(self, batch_seconds: float, queue_seconds: float) -> dict[str, int]:
        """Settings for batches of at most `batch_seconds`, and a queue of at most `queue_seconds`.

        The batch is no smaller than one that reaches nearly the best rate, so it may take longer.
        A sequence that alone would take a quarter of such a batch's time is computed in slices.
        """
        fixed, per_token = self.line
        enough = next(b.tokens for b in self.batches if b.rate >= _LEAST_RATE * self.best.rate)
        batch = max(enough, int((batch_seconds - fixed) / per_token))
        # Beyond what was measured nothing is known.
        batch = _rounded(min(batch, self.batches[-1].tokens))
        whole = min(_rounded(int(batch_seconds / 4 / self.long_step_seconds)), batch)
        return {
            "max_batch_tokens": batch,
            "max_queue_tokens": max(_rounded(int(queue_seconds * self.best.rate)), 2 * batch),
            "max_whole_tokens": whole,
        }


_COLUMNS = ("tokens", "seconds")


def measure(
    engine: Engine,
    mean_steps: int,
    most_tokens: int,
    most_sequences: int,
    seconds: float,
    progress: Callable[[MeasuredBatch], object] = lambda _: None,
) -> Measured:
    """Time batches of 1, 2, 4 and so on sequences of `mean_steps` in the mean, up to the bounds.

    Takes about `seconds`; `progress` is called with each batch. Raises `OutOfMemory`.
    """
    sizes = _sizes(mean_steps, most_tokens, most_sequences)
    share = seconds / (len(sizes) + 1)
    outputs = _outputs(engine.config)
    batches = []
    for size in sizes:
        lengths = _lengths(size, mean_steps)
        sequences = [SequenceInput(_steps(engine.config, length), outputs) for length in lengths]
        took = _time(engine, sequences, share)
        batches.append(MeasuredBatch(size, sum(lengths), took))
        progress(batches[-1])
    long = SequenceInput(_steps(engine.config, _LONG_STEPS), outputs)
    return Measured(batches, _time(engine, [long], share) / _LONG_STEPS)


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


def _steps(config: ModelConfig, steps: int) -> np.ndarray:
    generator = np.random.default_rng(steps)
    if config.embedding:
        return generator.integers(0, config.embedding.num_embeddings, steps)
    return generator.standard_normal((steps, config.input_size), np.float32)


def _outputs(config: ModelConfig) -> frozenset[Output]:
    return frozenset({Output.LOGITS} if config.head else {Output.STATES})


def _time(engine: Engine, sequences: Sequence[SequenceInput], seconds: float) -> float:
    """The median of runs, as many as fit into the time, after one that is not counted."""
    engine.run(sequences)
    took: list[float] = []
    end_at = time.perf_counter() + seconds
    while len(took) < _REPEATS or time.perf_counter() < end_at:
        started_at = time.perf_counter()
        engine.run(sequences)
        took.append(time.perf_counter() - started_at)
    return median(took)


def _rounded(tokens: int) -> int:
    return max(tokens // _ROUND_TOKENS, 1) * _ROUND_TOKENS
