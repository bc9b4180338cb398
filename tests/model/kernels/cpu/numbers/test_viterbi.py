"""The compiled best paths have the reference's bits, in every variant and type."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.model import RaggedBatch
from bilstm_server.model.kernels import choose_kernel
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from bilstm_server.model.kernels.cpu.viterbi import CpuViterbi
from tests.model.kernels.chains import Case, assert_same, cases, draw, find, find_in_parts
from tests.model.kernels.cpu.numbers.drawn import threads
from tests.support.lstms import examples

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = choose_kernel("reference", torch.device("cpu")).kernel

every_type = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)


def assert_like_reference(kernel: CpuKernel, case: Case, dtype: torch.dtype) -> None:
    drawn = draw(case, dtype)
    for scores in (drawn.emissions, drawn.transitions):
        if case.seed % 3 == 0:  # some of them
            scores[torch.rand(scores.shape) < 0.02] = torch.nan
            scores[torch.rand(scores.shape) < 0.02] = torch.inf
    ours = drawn.viterbi(kernel)
    assert isinstance(ours, CpuViterbi)
    judge = drawn.viterbi(REFERENCE)
    batch = RaggedBatch(drawn.lengths)
    first, expected = (viterbi.advance(drawn.emissions, batch) for viterbi in (ours, judge))
    assert_same(first, expected)
    assert_same(ours.trace(*first, batch), judge.trace(*expected, batch))
    more, expected = (
        viterbi.advance(drawn.emissions, batch, first.scores) for viterbi in (ours, judge)
    )
    assert_same(more, expected)


@every_type
@examples(15)
@given(cases(150, 20, 12))
def test_like_reference(kernel: CpuKernel, dtype: torch.dtype, case: Case) -> None:
    """Paths, scores and backpointers are the reference's, ties, NaN and infinities included, from
    the start and from scores that were carried on."""
    assert_like_reference(kernel, case, dtype)


@pytest.mark.parametrize("tags", [3, 40])
def test_several_threads(kernel: CpuKernel, tags: int) -> None:
    """They are so too where threads share the work."""
    with threads(3):
        assert_like_reference(kernel, Case(tags, 200, 200, False, 0.1, 1), torch.float32)


@every_type
@examples(10)
@given(cases(40, 5, 30), st.data())
def test_in_parts(kernel: CpuKernel, dtype: torch.dtype, case: Case, data: st.DataObject) -> None:
    """A sequence whose steps come in parts has the path and the score that it has in a batch."""
    drawn = draw(case, dtype)
    viterbi = drawn.viterbi(kernel)
    found = find(viterbi, *drawn.sequences)
    paths = torch.split(found.tags, drawn.lengths)
    for index, emissions in enumerate(drawn.sequences):
        cuts = sorted(data.draw(st.lists(st.integers(1, len(emissions)), max_size=3)))
        actual = find_in_parts(viterbi, emissions, cuts)
        assert_same(actual, (paths[index], found.scores[index : index + 1]))


def test_not_contiguous(kernel: CpuKernel) -> None:
    """Scores that are views of something wider give what their copies give."""
    wide, ends = torch.randn(9, 20).t(), torch.randn(9, 2)
    emissions = torch.randn(12, 22)[:, ::2][:, 2:]
    chain = (wide[2:11], ends[:, 0], ends[:, 1])
    assert not any(tensor.is_contiguous() for tensor in (*chain, emissions))
    actual = find(kernel.viterbi(*chain), emissions)
    copies = kernel.viterbi(*(tensor.contiguous() for tensor in chain))
    assert_same(actual, find(copies, emissions.contiguous()))


def test_own_copies(kernel: CpuKernel) -> None:
    """What is done to the scores afterwards changes no path."""
    drawn = draw(Case(16, 3, 9, False, 0.0, 0), torch.float32)
    viterbi = drawn.viterbi(kernel)
    before = find(viterbi, *drawn.sequences)
    for tensor in (drawn.transitions, drawn.start, drawn.end):
        tensor.zero_()
    assert_same(find(viterbi, *drawn.sequences), before)


def test_gradient(kernel: CpuKernel) -> None:
    """Where a gradient is to reach the emissions, the reference computes: a path's score has the
    gradient 1 in the emissions of its tags."""
    drawn = draw(Case(5, 1, 9, False, 0.0, 0), torch.float32)
    emissions = drawn.emissions.requires_grad_()
    found = find(drawn.viterbi(kernel), emissions)
    gradient: Tensor = torch.autograd.grad(found.scores.sum(), emissions)[0]
    assert_same((gradient,), (torch.nn.functional.one_hot(found.tags, 5).float(),))
