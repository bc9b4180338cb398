"""Each layer type computes what torch's own modules and operations do, sequence by sequence."""

from __future__ import annotations

import pytest
import torch

from .cases import CASES, Case
from .running import compute, graph_of, inferred, judged, sequences_for

LENGTHS = (7, 5, 64, 150, 9)
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_torch_is_the_judge(case: Case, dtype: torch.dtype) -> None:
    """Every part of every sequence is what torch makes of that sequence alone."""
    encoder = graph_of(case, dtype)
    sequences = sequences_for(case, LENGTHS, dtype)
    reference = graph_of(case, dtype).double()
    for index, parts in enumerate(inferred(encoder, sequences)):
        inputs = [x[index].double() for x in sequences]
        with torch.no_grad():
            expected = judged(case, reference.get_submodule("layer"), inputs)
        for ours, theirs in zip(parts, expected, strict=True):
            assert ours.dtype == (dtype if theirs.is_floating_point() else torch.int64)
            tolerance = TOLERANCES[dtype]
            scale = float(theirs.nan_to_num(0, 0, 0).abs().max().clamp(min=1))
            torch.testing.assert_close(
                ours.to(theirs.dtype),
                theirs,
                rtol=tolerance,
                atol=tolerance * scale,
                equal_nan=True,
            )


@every_case
def test_gradients(case: Case) -> None:
    """Gradients of parameters and inputs are those of torch's own operations."""
    if case.layer["type"] == "argmax":
        pytest.skip("ids have no gradient")
    encoder = graph_of(case, torch.float64, frozen=False)
    layer = encoder.get_submodule("layer")
    # Where log has a gradient, and a maximum is one number.
    sequences = [[torch.rand(n, w).double() * 2 + 0.1 for n in (5, 70)] for w in case.widths]
    leaves = [x.requires_grad_() for steps in sequences for x in steps] + [*layer.parameters()]
    weights: list[torch.Tensor] = []

    def gradients(results: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor | None, ...]:
        parts = [part for parts in results for part in parts]
        while len(weights) < len(parts):
            weights.append(torch.randn_like(parts[len(weights)]))
        total = sum((w * part).sum() for w, part in zip(weights, parts, strict=True))
        assert isinstance(total, torch.Tensor)
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    ours = gradients(compute(encoder, sequences))
    by_sequence = zip(*sequences, strict=True)
    theirs = gradients([judged(case, layer, inputs) for inputs in by_sequence])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["softmax_steps", "softmax_steps, log", "attention", "logsumexp"])
@pytest.mark.parametrize("masked", [slice(0, 64), slice(60, 140), slice(1, 150), slice(0, 150)])
def test_scores_of_minus_infinity(name: str, masked: slice) -> None:
    """Steps with the score -inf have no weight, be they a whole segment; if all are, it is NaN."""
    case = CASES[name]
    encoder = graph_of(case, torch.float64)
    sequences = sequences_for(case, (150, 70), torch.float64)
    sequences[-1][0][masked] = -torch.inf
    for index, parts in enumerate(inferred(encoder, sequences)):
        expected = judged(case, encoder.get_submodule("layer"), [x[index] for x in sequences])
        torch.testing.assert_close(parts, expected, rtol=0, atol=1e-10, equal_nan=True)


def test_the_first_of_equal_numbers() -> None:
    """`argmax` takes the first of several columns with the largest number."""
    rows = torch.tensor([[1.0, 3.0, 3.0], [0.0, -0.0, -1.0], [2.0, 2.0, 2.0]])
    layer = graph_of(CASES["argmax"]).get_submodule("layer")
    assert layer(rows).tolist() == [1, 0, 0]


@every_case
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu(case: Case) -> None:
    """A GPU computes what a CPU does."""
    sequences = sequences_for(case, LENGTHS)
    ours = inferred(graph_of(case, device="cuda"), sequences)
    for parts, expected in zip(ours, inferred(graph_of(case), sequences), strict=True):
        for part, own in zip(parts, expected, strict=True):
            tolerance = 1e-5 * float(own.double().nan_to_num(0, 0, 0).abs().max().clamp(min=1))
            torch.testing.assert_close(part.cpu(), own, rtol=1e-5, atol=tolerance, equal_nan=True)
