"""The proof that a model folder gives what its owner's module gives: sequence by sequence, alone,
in a batch with others, in the parts of a stream, and in slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engine.sequences import Array
from ..errors import ModelError
from .served import SLICED_BEYOND, Arrays, serving
from .tables import aligned

TOLERANCE = 1e-4  # of a number itself, of the output's median, or of 1: the largest of these


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence, and what the owner's module gives for it alone."""

    inputs: Arrays
    outputs: Arrays

    @property
    def steps(self) -> int:
        """The steps of the sequence."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output is from the module's, the largest of all sequences."""

    output: str
    way: str  # in which it was asked for
    largest: float  # of floats; NaN where only one of both is NaN
    wrong_ids: int  # of integers
    count: int  # numbers that were compared

    @property
    def is_right(self) -> bool:
        """Whether it is what the module gives, up to rounding."""
        return self.largest <= TOLERANCE and not self.wrong_ids


@dataclass(frozen=True, slots=True, repr=False)
class Proof:
    """What was compared, and how far it was apart."""

    differences: tuple[Difference, ...]
    lengths: tuple[int, ...]  # of the sequences

    def __repr__(self) -> str:
        return f"<Proof by {self.words}>"

    @property
    def holds(self) -> bool:
        """Whether every output of every sequence was right in every way."""
        return all(difference.is_right for difference in self.differences)

    @property
    def largest(self) -> float:
        """The largest difference of all floats."""
        return max((d.largest for d in self.differences), key=_nan_is_largest, default=0.0)

    def table(self) -> str:
        """A line for each output: the largest difference in each way."""
        ways = list(dict.fromkeys(difference.way for difference in self.differences))
        cells = {(d.output, d.way): _cell(d) for d in self.differences}
        outputs = list(dict.fromkeys(difference.output for difference in self.differences))
        return aligned(
            [["output", *ways], *([o, *(cells[o, way] for way in ways)] for o in outputs)]
        )

    @property
    def words(self) -> str:
        """What was proven, and what it is worth, in a line."""
        wrong = sum(difference.wrong_ids for difference in self.differences)
        ids = f", and {wrong} ids differ" if wrong else ""
        return (
            f"{len(self.lengths)} sequences of {min(self.lengths)} to {max(self.lengths)} steps: "
            f"the largest difference is {self.largest:.1e}{ids}"
        )


def prove(folder: Path, examples: Sequence[Example]) -> Proof:
    """Serve the folder, ask for the sequences of the examples in every way, and compare.

    Raises `ModelError` if the folder can't be served, or gives an output of another shape.
    """
    sequences = [example.inputs for example in examples]
    outputs = list(examples[0].outputs)
    differences: list[Difference] = []
    with serving(folder, outputs) as served:
        ways = {"alone": served.alone, "together": served.together, "streamed": served.streamed}
        for way, ask in ways.items():
            given = ask(sequences)
            differences += _differences(way, outputs, examples, given, folder)
    return Proof(tuple(differences), tuple(example.steps for example in examples))


def lengths_to_prove(min_steps: int) -> tuple[int, ...]:
    """The steps of sequences that show what goes wrong: the shortest there are, odd ones, and some
    that are computed in several slices."""
    short = (min_steps, min_steps + 1, 7, 11, 23, 40)
    long = (SLICED_BEYOND, SLICED_BEYOND + 1, 2 * SLICED_BEYOND + 5)
    return tuple(max(steps, min_steps) for steps in (*short, *long))


def _differences(
    way: str,
    outputs: Sequence[str],
    examples: Sequence[Example],
    given: Sequence[Arrays],
    folder: Path,
) -> Iterator[Difference]:
    for output in outputs:
        largest, wrong, count = 0.0, 0, 0
        for example, arrays in zip(examples, given, strict=True):
            expected = example.outputs[output]
            # Where a stream gives no row of it in any part, there is none.
            got = arrays.get(output, np.empty((0, *expected.shape[1:]), expected.dtype))
            if got.shape != expected.shape:
                raise ModelError(
                    f"{folder}: {output} of a sequence of {example.steps} steps is "
                    f"{list(got.shape)}, the module's is {list(expected.shape)}"
                )
            count += expected.size
            if expected.dtype.kind in "iub":
                wrong += int((got != expected).sum())
            else:
                largest = max(largest, distance(got, expected), key=_nan_is_largest)
        yield Difference(output, way, largest, wrong, count)


def distance(got: Array, expected: Array) -> float:
    """The largest difference, beside the number itself, the output's median or 1. A few huge
    numbers, as of classes that are masked, do not hide what the others are off by."""
    if not expected.size:
        return 0.0
    ours, theirs = got.astype(np.float64), expected.astype(np.float64)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        differences = np.where(same, 0.0, np.abs(ours - theirs))
    sizes = np.where(np.isfinite(theirs), np.abs(theirs), 0.0)
    median = np.sort(sizes, axis=None)[(sizes.size - 1) // 2]
    return float((differences / np.maximum(1.0, np.maximum(sizes, median))).max())


def _nan_is_largest(number: float) -> tuple[bool, float]:
    return number != number, number


def _cell(difference: Difference) -> str:
    if difference.wrong_ids:
        return f"{difference.wrong_ids} of {difference.count} ids differ"
    return f"{difference.largest:.1e}"
