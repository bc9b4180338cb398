"""A sequence has the same bits alone, in any batch, with any number of threads, and in each
direction by itself.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import RaggedBatch
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from bilstm_server.model.kernels.interface import DirectionInput, Results
from tests.model.kernels.cpu.numbers.drawn import (
    Case,
    Drawn,
    architecture,
    cases,
    draw,
    every_big_case,
    every_dtype,
    same_bits,
    threads,
)
from tests.support.lstms import (
    by_sequence,
    draw_states,
    examples,
    pair,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN"),  # of switching it off
]


def run_some(drawn: Drawn, chosen: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each chosen sequence's results, in a batch of these in this order."""
    sequences = torch.split(drawn.x, drawn.lengths)
    x = torch.cat([sequences[index] for index in chosen])
    lengths = [drawn.lengths[index] for index in chosen]
    hx = drawn.hx and (drawn.hx[0][:, chosen], drawn.hx[1][:, chosen])
    return by_sequence(drawn.ours.forward_ragged(x, lengths, hx), lengths)


def assert_same_bits(drawn: Drawn) -> None:
    everyone = range(len(drawn.lengths))
    expected = run_some(drawn, everyone)

    def assert_same(chosen: Sequence[int]) -> None:
        for index, actual in zip(chosen, run_some(drawn, chosen), strict=True):
            assert same_bits(actual, expected[index])

    shuffled = torch.randperm(len(drawn.lengths)).tolist()
    for count, chosen in ((2, everyone), (3, shuffled), (5, everyone)):
        with threads(count):
            assert_same(chosen)
    assert_same(shuffled[: len(shuffled) // 2 + 1])
    for index in shuffled[:4]:
        assert_same([index])


@every_dtype
@examples(10)
@given(cases())
def test_same_bits(kernel: CpuKernel, dtype: torch.dtype, case: Case) -> None:
    """A sequence has the same bits alone, in any batch, anywhere in it, with any number of
    threads."""
    drawn = draw(case, dtype)
    drawn.ours.freeze(kernel)
    assert_same_bits(drawn)


@every_big_case
@every_dtype
def test_same_bits_of_big_batches(kernel: CpuKernel, dtype: torch.dtype, case: Case) -> None:
    """A sequence has the same bits where threads surely share the work, in several groups too."""
    drawn = draw(case, dtype)
    drawn.ours.freeze(kernel)
    assert_same_bits(drawn)


class Reading(NamedTuple):
    """One direction's way through some of the sequences: in two parts, each cut at random."""

    direction: int
    chosen: list[int]
    first: list[Tensor]  # what it reads of each
    rest: list[Tensor]  # and then, perhaps nothing

    def first_part(self, h_0: Tensor, c_0: Tensor) -> DirectionInput:
        states = (state[self.direction, self.chosen].float() for state in (h_0, c_0))
        return DirectionInput(
            torch.cat(self.first), RaggedBatch([len(x) for x in self.first]), *states
        )

    def rest_part(self, result: Results) -> DirectionInput | None:
        """Of the sequences that have a rest, from the first part's final states."""
        left = [index for index, x in enumerate(self.rest) if len(x)]
        if not left:
            return None
        rest = [self.rest[index] for index in left]
        states = (state[left] for state in result[1:])
        return DirectionInput(torch.cat(rest), RaggedBatch([len(x) for x in rest]), *states)

    def results(self, first: Results, rest: Results | None) -> Iterator[Results]:
        """Of each sequence: y, h_n and c_n."""
        rests = [] if rest is None else by_rows(rest, [len(x) for x in self.rest if len(x)])
        following = iter(rests)
        ends = by_rows(first, [len(x) for x in self.first])
        for (y, h, c), x in zip(ends, self.rest, strict=True):
            if len(x):
                more, h, c = next(following)
                y = torch.cat([more, y] if self.direction else [y, more])
            yield y, h, c


def by_rows(results: Results, lengths: list[int]) -> list[Results]:
    y, h_n, c_n = results
    return list(zip(torch.split(y, lengths), h_n, c_n, strict=True))


def draw_reading(drawn: Drawn, direction: int) -> Reading:
    count = len(drawn.lengths)
    chosen = torch.randperm(count)[: 1 + int(torch.randint(count, ()))].tolist()
    first, rest = [], []
    for index in chosen:
        x = torch.split(drawn.x, drawn.lengths)[index]
        cut = 1 + int(torch.randint(len(x), ()))
        first.append(x[len(x) - cut :] if direction else x[:cut])
        rest.append(x[: len(x) - cut] if direction else x[cut:])
    return Reading(direction, chosen, first, rest)


@every_dtype
@examples(15)
@given(cases(), st.integers(1, 3))
def test_same_bits_per_direction(
    kernel: CpuKernel, dtype: torch.dtype, case: Case, count: int
) -> None:
    """A direction has the same bits over rows of its own, of any of the sequences, and where it
    is continued from its states as where it runs on."""
    one_layer = case.architecture | {"num_layers": 1}
    drawn = draw(case._replace(architecture=one_layer), dtype)
    [layer] = drawn.ours.freeze(kernel).layers()
    h_0, c_0 = draw_states(drawn.ours, case.sequences)
    y, h_n, c_n = layer(drawn.x, RaggedBatch(drawn.lengths), h_0, c_0)
    rows = torch.split(y, drawn.lengths)
    readings = [draw_reading(drawn, k) for k in range(drawn.ours.num_directions)]
    with threads(count):
        firsts = layer.per_direction([reading.first_part(h_0, c_0) for reading in readings])
        rests = layer.per_direction(
            [own.rest_part(first) for own, first in zip(readings, firsts, strict=True) if first]
        )
    width = drawn.ours.output_size
    for reading, first, rest in zip(readings, firsts, rests, strict=True):
        assert first is not None
        k = reading.direction
        for index, own in zip(reading.chosen, reading.results(first, rest), strict=True):
            columns = rows[index][:, k * width : (k + 1) * width]
            expected = (columns, h_n[k, index], c_n[k, index])
            assert same_bits([tensor.to(dtype) for tensor in own], expected)


@every_dtype
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_per_direction(kernel: CpuKernel, dtype: torch.dtype, count: int) -> None:
    """A direction that has nothing to do gives None, and changes nothing for the other."""
    _, ours = pair(dtype, input_size=24, hidden_size=40)
    [layer] = ours.freeze(kernel).layers()
    h_0, c_0 = draw_states(ours, 5)
    x = torch.randn(500, 24, dtype=dtype)
    part = DirectionInput(x, RaggedBatch([100] * 5), h_0[0], c_0[0])
    with threads(count):
        both = layer.per_direction([part, part])
        assert layer.per_direction([None, None]) == [None, None]
        for k in range(2):
            alone = layer.per_direction([part if k == own else None for own in range(2)])
            assert alone[1 - k] is None
            assert alone[k] is not None
            assert same_bits(alone[k] or (), both[k] or ())


@every_dtype
@pytest.mark.parametrize("count", [1, 3])
def test_several_callers(kernel: CpuKernel, dtype: torch.dtype, count: int) -> None:
    """Callers of one layer at the same time each get their own results' bits."""
    callers = 4
    drawn = draw(Case(architecture(24, 40), 60, 9, True, 0), dtype)
    drawn.ours.freeze(kernel)
    expected = run_some(drawn, range(60))
    together = threading.Barrier(callers)

    def call(caller: int) -> bool:
        torch.set_num_threads(count)  # each thread has its own number
        chosen = range(caller, 60, callers)
        together.wait()
        runs = [run_some(drawn, chosen) for _ in range(10)]
        return all(
            same_bits(own, expected[index])
            for run in runs
            for index, own in zip(chosen, run, strict=True)
        )

    with ThreadPoolExecutor(callers) as executor:
        assert all(executor.map(call, range(callers)))


@every_dtype
def test_not_contiguous(kernel: CpuKernel, dtype: torch.dtype) -> None:
    """Inputs and states that are views of something wider have the same bits as copies."""
    _, ours = pair(dtype, input_size=11, hidden_size=13)
    ours.freeze(kernel)
    x = torch.randn(22, 9, dtype=dtype).t()[:, ::2]
    h_0, c_0 = (torch.randn(5, 13, 4, dtype=dtype).permute(2, 0, 1)[::2] for _ in range(2))
    assert not any(tensor.is_contiguous() for tensor in (x, h_0, c_0))
    lengths = [1, 3, 2, 1, 2]
    copies = (x.contiguous(), lengths, (h_0.contiguous(), c_0.contiguous()))
    actual, expected = ours.forward_ragged(x, lengths, (h_0, c_0)), ours.forward_ragged(*copies)
    pairs = zip(by_sequence(actual, lengths), by_sequence(expected, lengths), strict=True)
    for one, other in itertools.chain.from_iterable(zip(*each, strict=True) for each in pairs):
        assert torch.equal(one, other)
