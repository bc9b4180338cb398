"""The compiled CPU kernel's numbers, in every variant, and that they are the same bits everywhere.

A variant that this CPU cannot run is compiled with portable code in place of its instructions.
`make sanitize` runs this file over kernels that watch their own memory. How a kernel is built,
found, copied and forked is in test_cpu_loading.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lstms import (
    architectures,
    assert_close,
    assert_near,
    by_sequence,
    draw_states,
    examples,
    judged,
    pair,
    seeds,
)
from torch import Tensor, nn
from torch.autograd import forward_ad

from bilstm_server.model import ModelConfig, Output, Pooling, RaggedBatch, SequenceEncoder
from bilstm_server.model.bilstm import BiLSTM, States
from bilstm_server.model.kernels.cpu.build import VARIANTS, Variant
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from bilstm_server.model.kernels.interface import DirectionInput, KernelUnavailable, Results

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN"),  # of switching it off
]

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(scope="session", params=VARIANTS[::-1], ids=lambda variant: variant.name)
def kernel(request: pytest.FixtureRequest, compiled: Callable[[Variant], Path]) -> CpuKernel:
    try:
        return CpuKernel(compiled(request.param))
    except KernelUnavailable as error:
        if "may not use" in str(error):  # as in a sandbox
            pytest.skip(str(error))
        raise


class Case(NamedTuple):
    """A ragged batch, and the LSTM that runs it: its sizes meet full and part vectors, tiles,
    blocks of rows and groups of sequences."""

    architecture: dict[str, Any]
    sequences: int
    longest: int
    stateful: bool
    seed: int


def cases(smallest: int = 1) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        architectures(smallest, 70),
        st.integers(1, 70),
        st.integers(1, 40),
        st.booleans(),
        seeds,
    )


def architecture(input_size: int, hidden_size: int, **others: Any) -> dict[str, Any]:
    return {"input_size": input_size, "hidden_size": hidden_size, "bidirectional": True} | others


BIG_CASES = [
    Case(architecture(40, 96), 300, 4, True, 0),
    Case(architecture(33, 96, proj_size=65, num_layers=2), 140, 6, True, 1),
    Case(architecture(128, 130, bidirectional=False), 7, 40, False, 2),
]
every_big_case = pytest.mark.parametrize("case", BIG_CASES, ids=["many", "projected", "wide"])


class Drawn(NamedTuple):
    """A case's modules and inputs."""

    judge: nn.LSTM
    ours: BiLSTM
    x: Tensor
    lengths: list[int]
    hx: States | None


def draw(case: Case, dtype: torch.dtype) -> Drawn:
    judge, ours = pair(dtype, case.seed, **case.architecture)
    lengths = torch.randint(1, case.longest + 1, (case.sequences,)).tolist()
    x = torch.randn(sum(lengths), ours.input_size, dtype=dtype)
    hx = draw_states(ours, case.sequences) if case.stateful else None
    return Drawn(judge, ours, x, lengths, hx)


# -- the numbers ------------------------------------------------------------------------------


def assert_right(drawn: Drawn, kernel: CpuKernel) -> None:
    judge, ours, x, lengths, hx = drawn
    with torch.inference_mode():
        actual = ours.freeze(kernel).forward_ragged(x, lengths, hx)
        exact_hx = None if hx is None else (hx[0].double(), hx[1].double())
        exact = judged(judge.double(), x.double(), lengths, exact_hx)
    if x.dtype == torch.float32:
        assert_close(actual, exact, 1e-5, check_dtype=False)
    else:
        assert_near(actual, exact, x.dtype)


@examples(25)
@given(cases())
def test_float32(kernel: CpuKernel, case: Case) -> None:
    """In float32, outputs and final states are within 1e-5 of nn.LSTM's in float64."""
    assert_right(draw(case, torch.float32), kernel)


@examples(25)
@given(cases(smallest=8))
def test_bfloat16(kernel: CpuKernel, case: Case) -> None:
    """In bfloat16, outputs and final states are within 1e-2 of float64's of the same weights."""
    assert_right(draw(case._replace(stateful=True), torch.bfloat16), kernel)


@every_big_case
@every_dtype
def test_big(kernel: CpuKernel, dtype: torch.dtype, case: Case) -> None:
    """So they are where many sequences make several groups, and many units several panels."""
    assert_right(draw(case, dtype), kernel)


# -- at the ends of the numbers ---------------------------------------------------------------

# Powers of two, so that with the weights below every sum is exact, in whatever order.
LARGE = [2.0**7, 2.0**13, 2.0**100]


def signs(shape: Sequence[int]) -> Tensor:
    return torch.randint(-1, 2, tuple(shape)).float()


def draw_of_signs(dtype: torch.dtype, weights: float, **arguments: Any) -> tuple[nn.LSTM, BiLSTM]:
    """Modules whose weights are 0, `weights` and -`weights`."""
    judge, ours = pair(dtype, input_size=21, hidden_size=37, **arguments)
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.copy_(signs(parameter.shape) * weights)
    ours.load_state_dict(judge.state_dict())
    return judge, ours


def assert_like_float32(
    judge: nn.LSTM, ours: BiLSTM, x: Tensor, lengths: list[int], hx: States
) -> None:
    """The results are those of nn.LSTM in float32, where a bfloat16 has the same range."""
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
        states = (hx[0].float(), hx[1].float())
        expected = judged(judge.float(), x.float(), lengths, states)
    tolerance = 1e-5 if x.dtype == torch.float32 else 1e-2
    actual = ours.forward_ragged(x, lengths, hx)
    assert_close(actual, expected, tolerance, equal_nan=True, check_dtype=False)


@every_dtype
@pytest.mark.parametrize("weights", [1.0, 2.0**13])
@pytest.mark.parametrize("inputs", [1.0, *LARGE])
def test_saturated(kernel: CpuKernel, dtype: torch.dtype, inputs: float, weights: float) -> None:
    """Gates far beyond saturation give what they give in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, weights, bias=False)
    x = (signs((50, 21)) * inputs).to(dtype)
    h_0, c_0 = draw_states(ours, 50)
    hx = ((signs(h_0.shape) * inputs).to(dtype), (signs(c_0.shape) * inputs).to(dtype))
    assert_like_float32(judge, ours.freeze(kernel), x, [1] * 50, hx)


@every_dtype
def test_overflow(kernel: CpuKernel, dtype: torch.dtype) -> None:
    """Products beyond the largest number give what they give in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, 2.0**100, bias=False)
    with torch.no_grad():
        for parameter in judge.parameters():  # of one sign in a row: no infinity meets another
            parameter.abs_().mul_(signs((len(parameter), 1)))
    ours.load_state_dict(judge.state_dict())
    x = torch.full((50, 21), 2.0**100, dtype=dtype)
    h_0, c_0 = draw_states(ours, 50)
    assert_like_float32(judge, ours.freeze(kernel), x, [1] * 50, (h_0 * 0, c_0 * 2.0**100))


@every_dtype
@pytest.mark.parametrize("inputs", LARGE)
def test_large_inputs(kernel: CpuKernel, dtype: torch.dtype, inputs: float) -> None:
    """Steps of saturated gates give what they give in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, 0.25, bias=False, proj_size=5)
    lengths = [1, 9, 4, 30, 4]
    x = (signs((sum(lengths), 21)) * inputs).to(dtype)
    assert_like_float32(judge, ours.freeze(kernel), x, lengths, draw_states(ours, 5))


@every_dtype
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("place", ["x", "h_0", "c_0"])
@pytest.mark.parametrize("proj_size", [0, 5])
def test_not_finite(
    kernel: CpuKernel, dtype: torch.dtype, value: float, place: str, proj_size: int
) -> None:
    """An infinity or a NaN, in x or a state, gives what it gives in nn.LSTM, and changes no bit of
    the sequences that have none."""
    judge, ours = draw_of_signs(dtype, 0.25, proj_size=proj_size)
    ours.freeze(kernel)
    lengths = [1 + index % 7 for index in range(30)]
    x = torch.randn(sum(lengths), 21, dtype=dtype)
    h_0, c_0 = draw_states(ours, len(lengths))
    clean = by_sequence(ours.forward_ragged(x, lengths, (h_0, c_0)), lengths)
    sick = range(0, len(lengths), 3)
    rows = torch.split(x, lengths)
    for index in sick:
        row = {"x": rows[index][-1], "h_0": h_0[1, index], "c_0": c_0[0, index]}[place]
        row[index % len(row)] = value
    assert_like_float32(judge, ours, x, lengths, (h_0, c_0))
    actual = by_sequence(ours.forward_ragged(x, lengths, (h_0, c_0)), lengths)
    for index in set(range(len(lengths))) - set(sick):
        assert same_bits(actual[index], clean[index])


@every_dtype
@pytest.mark.parametrize("gate", [-200.0, -float("inf")])
def test_infinite_cell_forgotten(kernel: CpuKernel, dtype: torch.dtype, gate: float) -> None:
    """An infinite cell times a forget gate of exactly 0 is a NaN, as in nn.LSTM."""
    judge, ours = draw_of_signs(dtype, 0.0)
    with torch.no_grad():
        for name, parameter in judge.named_parameters():
            if name.startswith("bias_ih"):
                parameter[37:74] = gate
    ours.load_state_dict(judge.state_dict())
    hx = draw_states(ours, 3)
    hx[1][:, 1] = float("inf")
    x = torch.randn(6, 21, dtype=dtype)
    ours.freeze(kernel)
    assert ours.forward_ragged(x, [2, 2, 2], hx)[1][1][:, 1].isnan().all()
    assert_like_float32(judge, ours, x, [2, 2, 2], hx)


@every_dtype
def test_leftovers(kernel: CpuKernel, dtype: torch.dtype) -> None:
    """What a wider layer of NaNs left in a thread's buffers reaches no result."""
    _, narrow = pair(dtype, input_size=21, hidden_size=37, proj_size=13)
    _, wide = pair(dtype, input_size=70, hidden_size=90, proj_size=65)
    x = torch.randn(20, 21, dtype=dtype)
    narrow.freeze(kernel)
    expected, _ = narrow.forward_ragged(x, [20])
    wide.freeze(kernel)(torch.full((9, 40, 70), float("nan"), dtype=dtype))
    assert torch.equal(narrow.forward_ragged(x, [20])[0], expected)


# -- the same bits ----------------------------------------------------------------------------


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """As `torch.equal`, but a NaN equals itself, and 0.0 not -0.0."""
    words = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    return all(
        torch.equal(a.view(words[a.dtype]), b.view(words[b.dtype]))
        for a, b in zip(one, other, strict=True)
    )


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
    """So it has where threads surely share the work, and sequences make several groups."""
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
    config = ModelConfig.model_validate(
        {"input_size": 9, "hidden_size": 33, "head": {"num_classes": 10, "pooling": pooling}}
    )
    encoder = SequenceEncoder(config, dtype=dtype).freeze(kernel)
    sequences = [torch.randn(1 + index % 9, 9, dtype=dtype) for index in range(33)]

    def encode(chosen: Sequence[Tensor]) -> list[list[Tensor]]:
        lengths = [len(sequence) for sequence in chosen]
        with torch.inference_mode():
            found = encoder(torch.cat(list(chosen)), RaggedBatch(lengths), None, frozenset(Output))
        pooled = (found.final, found.mean, found.max, found.logits)
        rows = [torch.split(found.states, lengths), *pooled, *(s.unbind(1) for s in found.state)]
        return [list(own) for own in zip(*rows, strict=True)]

    for sequence, together in zip(sequences, encode(sequences), strict=True):
        assert same_bits(encode([sequence])[0], together)
