"""Live sequences of the model that the tests of live streams serve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WIDTH, HIDDEN = 5, 6
CARRIED_BYTES = 2 * 4 * 2 * HIDDEN  # the states that each of two blocks leaves


def sequence(seed: int, steps: int) -> Array:
    return np.random.default_rng(seed).standard_normal((steps, WIDTH), np.float32)
