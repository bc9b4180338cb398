"""The lengths that the benchmarks run on. Knows no torch, no model and no server."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MEAN_LENGTH = 29
MAX_LENGTH = 128
SPREAD = 0.6  # standard deviation of the lengths' logarithm: 95 % lie between 7 and 79


def lengths(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """`count` sequence lengths in steps: log-normal with mean 29, from 1 to 128."""
    drawn = rng.lognormal(math.log(MEAN_LENGTH) - SPREAD**2 / 2, SPREAD, count)
    return np.clip(np.rint(drawn), 1, MAX_LENGTH).astype(np.int64)
