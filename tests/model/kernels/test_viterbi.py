"""The reference's best paths are those that are found by trying every path."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model.kernels import choose_kernel
from tests.model.kernels.chains import Case, Drawn, assert_same, cases, draw, find, find_in_parts
from tests.support.lstms import examples

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = choose_kernel("reference", torch.device("cpu")).kernel


def every_path(drawn: Drawn, emissions: Tensor) -> dict[tuple[int, ...], float]:
    """The score of each path."""
    steps, tags = emissions.shape
    scores: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(tags), repeat=steps):
        score = drawn.start[path[0]] + emissions[0, path[0]]
        for step in range(1, steps):
            score = score + drawn.transitions[path[step - 1], path[step]]
            score = score + emissions[step, path[step]]
        scores[path] = float(score + drawn.end[path[-1]])
    return scores


@examples(40)
@given(cases(4, 3, 4))
def test_every_path(case: Case) -> None:
    """The path found is the best of all paths, and of equal ones that whose last tags are the
    lowest."""
    drawn = draw(case, torch.float64)
    found = find(drawn.viterbi(REFERENCE), *drawn.sequences)
    paths = torch.split(found.tags, drawn.lengths)
    for path, score, emissions in zip(paths, found.scores, drawn.sequences, strict=True):
        scores = every_path(drawn, emissions)
        best = max(scores.values())
        assert float(score) == best
        if best > -torch.inf:
            equal = [own for own in scores if scores[own] == best]
            assert tuple(path.tolist()) == min(equal, key=lambda own: own[::-1])


@examples(40)
@given(cases(9, 6, 9), st.data())
def test_alone_and_in_parts(case: Case, data: st.DataObject) -> None:
    """A sequence's path and score are the same alone, in a batch, and where its steps come in
    parts."""
    drawn = draw(case, torch.float32)
    viterbi = drawn.viterbi(REFERENCE)
    found = find(viterbi, *drawn.sequences)
    paths = torch.split(found.tags, drawn.lengths)
    for index, emissions in enumerate(drawn.sequences):
        cuts = sorted(data.draw(st.lists(st.integers(1, len(emissions)), max_size=3)))
        expected = (paths[index], found.scores[index : index + 1])
        assert_same(find(viterbi, emissions), expected)
        assert_same(find_in_parts(viterbi, emissions, cuts), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves(dtype: torch.dtype) -> None:
    """Scores of half precision are added in float32."""
    drawn = draw(Case(7, 5, 9, False, 0.1, 0), dtype)
    actual = find(drawn.viterbi(REFERENCE), *drawn.sequences)
    wide = (tensor.float() for tensor in (drawn.transitions, drawn.start, drawn.end))
    emissions = (sequence.float() for sequence in drawn.sequences)
    assert_same(actual, find(REFERENCE.viterbi(*wide), *emissions))


def test_forbidden() -> None:
    """A transition of minus infinity is not taken, however high the emissions are, and gives no
    NaN; where every path has one, the score says so."""
    transitions = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    viterbi = REFERENCE.viterbi(transitions, torch.tensor([0.0, -torch.inf]), torch.zeros(2))
    emissions = torch.tensor([[0.0, 9.0]] * 3)
    assert_same(find(viterbi, emissions), (torch.zeros(3, dtype=torch.int64), torch.zeros(1)))
    viterbi = REFERENCE.viterbi(transitions, torch.full((2,), -torch.inf), torch.zeros(2))
    assert find(viterbi, emissions).scores.tolist() == [-torch.inf]


@pytest.mark.parametrize("step", [0, 3, 7])
def test_nan(step: int) -> None:
    """A NaN makes its own sequence's score a NaN, and changes nothing of the others."""
    drawn = draw(Case(5, 3, 1, False, 0.1, 0), torch.float32)
    sequences = [torch.randn(length, 5) for length in (5, 8, 9)]
    viterbi = drawn.viterbi(REFERENCE)
    clean = find(viterbi, *sequences)
    sequences[1][step, 2] = torch.nan
    sick = find(viterbi, *sequences)
    assert sick.scores.isnan().tolist() == [False, True, False]
    assert_same((sick.tags[:5], sick.tags[13:]), (clean.tags[:5], clean.tags[13:]))
    assert_same((sick.scores[::2],), (clean.scores[::2],))
