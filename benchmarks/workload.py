"""The lengths that the benchmarks run on. Knows no torch, no model and no server."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MEAN_LENGTH = 29
MAX_LENGTH = 128
SPREAD = 0.6  # standard deviation of the lengths' logarithm: 95 % lie between 7 and 79


def lengths(rng: np.random.Generator, count: int, mean: float = MEAN_LENGTH) -> NDArray[np.int64]:
    """`count` sequence lengths in steps: log-normal, by default with mean 29, from 1 to 128."""
    drawn = rng.lognormal(math.log(mean) - SPREAD**2 / 2, SPREAD, count)
    longest = round(MAX_LENGTH * mean / MEAN_LENGTH)
    return np.clip(np.rint(drawn), 1, longest).astype(np.int64)
