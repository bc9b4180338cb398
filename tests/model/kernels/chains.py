"""Linear-chain CRFs for tests: what is drawn, and how a path is found step by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import RaggedBatch
from bilstm_server.model.kernels import Kernel, Paths, Viterbi
from tests.support.lstms import seeds


class Case(NamedTuple):
    """A CRF and a ragged batch."""

    tags: int
    sequences: int
    longest: int
    whole: bool  # whether all scores are small integers, so that many are equal and sums exact
    forbidden: float  # the share of transitions that are minus infinity
    seed: int


def cases(most_tags: int, most_sequences: int, longest: int) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        st.integers(1, most_tags),
        st.integers(1, most_sequences),
        st.integers(1, longest),
        st.booleans(),
        st.sampled_from([0.0, 0.1, 0.5]),
        seeds,
    )


class Drawn(NamedTuple):
    """A case's tensors."""

    transitions: Tensor  # [C, C]
    start: Tensor  # [C]
    end: Tensor  # [C]
    emissions: Tensor  # [N, C]
    lengths: list[int]

    def viterbi(self, kernel: Kernel) -> Viterbi:
        return kernel.viterbi(self.transitions, self.start, self.end)

    @property
    def sequences(self) -> tuple[Tensor, ...]:
        """Each sequence's emissions."""
        return torch.split(self.emissions, self.lengths)


def draw(case: Case, dtype: torch.dtype) -> Drawn:
    torch.manual_seed(case.seed)

    def numbers(*shape: int) -> Tensor:
        found = torch.randn(shape) * 2
        return (found.round() if case.whole else found).to(dtype)

    chain = [numbers(case.tags, case.tags), numbers(case.tags), numbers(case.tags)]
    for scores in chain:
        scores[torch.rand(scores.shape) < case.forbidden] = -torch.inf
    lengths = torch.randint(1, case.longest + 1, (case.sequences,)).tolist()
    return Drawn(chain[0], chain[1], chain[2], numbers(sum(lengths), case.tags), lengths)


def find(viterbi: Viterbi, *sequences: Tensor) -> Paths:
    """The best path of each sequence's emissions [T, C], all in one batch."""
    batch = RaggedBatch([len(emissions) for emissions in sequences])
    return viterbi.trace(*viterbi.advance(torch.cat(sequences), batch), batch)


def find_in_parts(viterbi: Viterbi, emissions: Tensor, cuts: list[int]) -> Paths:
    """The best path of one sequence [T, C] whose steps come in parts that are cut there."""
    scores: Tensor | None = None
    tags: list[Tensor] = []
    for part in torch.tensor_split(emissions, cuts):
        if len(part):
            found = viterbi.advance(part, RaggedBatch([len(part)]), scores)
            tags.append(found.tags)
            scores = found.scores
    assert scores is not None
    return viterbi.trace(torch.cat(tags), scores, RaggedBatch([len(emissions)]))


def assert_same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal numbers of the same type; a NaN equals itself."""
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
