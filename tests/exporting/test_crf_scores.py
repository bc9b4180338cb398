"""What a CRF's parameters may mean, and the best path by it."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.exporting import convert
from bilstm_server.exporting.crf.scores import Scores

from .models import crfs, decoders
from .models.case import Case, seeded


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_the_best_path_is_the_best_of_all(seed: int, steps: int, tags: int) -> None:
    """No other path of tags has a higher score."""
    random = np.random.default_rng(seed)
    scores = Scores(
        random.standard_normal((tags, tags)),
        random.standard_normal(tags) if seed % 2 else None,
        random.standard_normal(tags) if seed % 3 else None,
    )
    emissions = random.standard_normal((steps, tags))

    def score_of(path: tuple[int, ...]) -> float:
        total = sum(emissions[step, tag] for step, tag in enumerate(path))
        total += sum(scores.transitions[a, b] for a, b in pairwise(path))
        total += 0 if scores.start is None else scores.start[path[0]]
        return float(total + (0 if scores.end is None else scores.end[path[-1]]))

    best, score = scores.best_path(emissions)
    assert score == pytest.approx(max(map(score_of, product(range(tags), repeat=steps))))
    assert score_of(tuple(best)) == pytest.approx(score)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in (*crfs.CASES, *decoders.CASES)]
)
def test_a_crf_is_one_layer(case: Case) -> None:
    """A decoder written in Python is a layer of the graph, whichever way its scores are kept."""
    converted = convert(seeded(case.make), case.example(), **case.arguments)
    assert converted.config.layers[-1].model_dump()["type"] == "crf"


def test_a_crf_that_is_not_used_is_no_layer() -> None:
    """Labels that are the best of each step by itself are not taken for a path."""

    class Greedy(crfs.OwnTransitions):
        def viterbi(self, feats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return feats.argmax(1), feats.max()

    converted = convert(
        seeded(Greedy), torch.randn(1, 9, 5), outputs=lambda m, a: {"labels": m(*a)["labels"]}
    )
    assert [layer.model_dump()["type"] for layer in converted.config.layers] == ["lstm", "argmax"]
