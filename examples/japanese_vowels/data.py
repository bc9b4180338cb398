"""The Japanese Vowels utterances; see README.md for source and licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "japanese_vowels.npz"


@dataclass(frozen=True)
class Utterances:
    sequences: list[NDArray[np.float32]]  # each [T, 12]
    speakers: NDArray[np.int64]  # 0 to 8


def load() -> tuple[Utterances, Utterances]:
    """The 270 utterances to train on, and the 370 to test on."""
    with np.load(FILE) as file:
        x, lengths, y, train = file["x"], file["lengths"], file["y"], int(file["train"])
    sequences = np.split(x, np.cumsum(lengths)[:-1])
    y = y.astype(np.int64)
    return Utterances(sequences[:train], y[:train]), Utterances(sequences[train:], y[train:])
