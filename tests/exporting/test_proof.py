"""What counts as the same: differences beside the numbers that they are of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_server.exporting import convert
from bilstm_server.exporting.proof import TOLERANCE, distance


def test_a_huge_number_hides_no_other() -> None:
    """A class that is masked with -1e9 does not excuse what the others are off by."""
    expected = np.array([[-1e9, 0.5, 0.25], [-1e9, 0.1, 0.9]])
    assert distance(expected + np.array([0.0, 0.0, 0.5]), expected) == pytest.approx(0.5)
    assert distance(expected + np.array([100.0, 0.0, 0.0]), expected) <= TOLERANCE


def test_large_numbers_are_rounded_as_such() -> None:
    """Beside sums of a thousand, what rounding leaves of a small one is right."""
    expected = np.array([1e3, -2e3, 0.0, 3e3])
    assert distance(expected + 0.01, expected) <= TOLERANCE


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_not_finite_must_be_the_same(number: float) -> None:
    """NaN is NaN, and infinity is infinity, and neither is a number."""
    expected = np.array([1.0, number])
    assert distance(expected, expected) == 0.0
    assert not distance(np.array([1.0, 2.0]), expected) <= TOLERANCE
    assert not distance(np.array([number, number]), expected) <= TOLERANCE


class Words(nn.Module):
    """A tagger of words and what is known of each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 5)
        self.lstm = nn.LSTM(7, 4, batch_first=True)

    def forward(self, ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        mask = (ids != 0).unsqueeze(-1)
        y, _ = self.lstm(torch.cat([self.embed(ids) * mask, known], -1))
        return torch.tanh(y)


def test_other_steps_than_the_example_s_are_proven() -> None:
    """Ids that the example has not, but not the one for padding; and other floats."""
    known = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    converted = convert(Words(), (torch.tensor([[3, 4, 5]]), known[None]))
    drawn = converted.sample(2000, seed=0)
    assert set(drawn["ids"].tolist()) == set(range(1, 40))
    is_own = (drawn["known"][:, None] == known).all(-1).any(-1)
    assert 0.4 < is_own.float().mean() < 0.6
