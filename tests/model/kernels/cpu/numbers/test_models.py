"""What the CPU kernel computes beside the recurrence: a head's product, derivatives, and every
output of a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

from bilstm_server.model import PlainConfig, Pooling, RaggedBatch, SequenceEncoder
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from tests.model.kernels.cpu.numbers.drawn import every_dtype, same_bits, threads
from tests.support.lstms import (
    assert_close,
    examples,
    pair,
    seeds,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN"),  # of switching it off
]


@every_dtype
@pytest.mark.parametrize("bias", [True, False])
@examples(20)
@given(st.integers(1, 70), st.integers(1, 140), st.integers(1, 70), seeds)
def test_linear(
    kernel: CpuKernel,
    bias: bool,
    dtype: torch.dtype,
    depth: int,
    columns: int,
    rows: int,
    seed: int,
) -> None:
    """A head's product is torch's, and a row has the same bits alone and among others."""
    torch.manual_seed(seed)
    module = nn.Linear(depth, columns, bias=bias, dtype=dtype)
    linear = kernel.linear(module.weight, module.bias)
    x = torch.randn(rows, depth, dtype=dtype)
    with torch.no_grad():
        y = linear(x)
        exact = module.double()(x.double())
        assert y.dtype == dtype
        assert_close(y, exact, 1e-5 if dtype == torch.float32 else 2e-2, check_dtype=False)
        for row in range(0, rows, 7):
            assert same_bits([linear(x[row : row + 1])], [y[row : row + 1]])


@every_dtype
@pytest.mark.parametrize("rows", [1000, 1001, 1283])
def test_linear_in_threads(kernel: CpuKernel, dtype: torch.dtype, rows: int) -> None:
    """A product's rows have the same bits where threads share them."""
    module = nn.Linear(33, 70, dtype=dtype)
    linear = kernel.linear(module.weight, module.bias)
    x = torch.randn(rows, 33, dtype=dtype)
    with torch.no_grad():
        alone = linear(x)
        with threads(3):
            assert same_bits([linear(x)], [alone])


@every_dtype
def test_linear_gradient(kernel: CpuKernel, dtype: torch.dtype) -> None:
    """A gradient reaches the input of a head's product."""
    module = nn.Linear(5, 3, dtype=dtype)
    x = torch.randn(4, 5, dtype=dtype, requires_grad=True)
    kernel.linear(module.weight, module.bias)(x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert_close(x.grad, module.weight.detach().sum(0).expand(4, 5), 1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, on the first use
def test_forward_mode(kernel: CpuKernel) -> None:
    """A derivative in forward mode passes through a frozen module too."""
    _, ours = pair(torch.float32)
    x, tangent = torch.randn(5, 3), torch.randn(5, 3)
    tangents = []
    for lstm in (ours, ours.freeze(kernel)):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, tangent)  # type: ignore[no-untyped-call]
            y, _ = lstm.forward_ragged(dual, [2, 3])
            found = forward_ad.unpack_dual(y)  # type: ignore[no-untyped-call]
            tangents.append(found.tangent)
    assert_close(tangents[1], tangents[0], 1e-6)


@every_dtype
@pytest.mark.parametrize("pooling", Pooling)
def test_every_output(kernel: CpuKernel, dtype: torch.dtype, pooling: Pooling) -> None:
    """Every output of a whole model has the same bits for a sequence alone and in a batch."""
    torch.manual_seed(0)
    head = {"num_classes": 10, "pooling": pooling}
    given = {"input_size": 9, "hidden_size": 33, "head": head}
    config = PlainConfig.model_validate(given).graph()
    encoder = SequenceEncoder(config).to(dtype).freeze(kernel)
    sequences = [torch.randn(1 + index % 9, 9, dtype=dtype) for index in range(33)]

    def encode(chosen: Sequence[Tensor]) -> list[list[Tensor]]:
        lengths = [len(sequence) for sequence in chosen]
        with torch.inference_mode():
            found = encoder(
                torch.cat(list(chosen)), RaggedBatch(lengths), None, config.output_names
            )
        states = (found.pop(name).unbind(1) for name in ("hidden", "cell"))
        rows = [torch.split(found.pop("states"), lengths), *states, *found.values()]
        return [list(own) for own in zip(*rows, strict=True)]

    for sequence, together in zip(sequences, encode(sequences), strict=True):
        assert same_bits(encode([sequence])[0], together)
