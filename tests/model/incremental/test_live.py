"""`encode_blocks`: latency-controlled encoding is the scheme that it says it is.

The judge computes the scheme offline, a sequence and a block at a time, with an nn.LSTM for each
layer and direction.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bilstm_server.model import SequenceEncoder
from bilstm_server.model.bilstm import States
from bilstm_server.model.incremental.live import encode_blocks
from bilstm_server.model.incremental.live_lstm import LiveState
from bilstm_server.model.kernels import NAMES
from tests.model.incremental import encoders, slicing
from tests.model.incremental.encoders import (
    VOCABULARY,
    draw_inputs,
    draw_state,
    graph_of,
)
from tests.model.incremental.living import Live, encode_live, initial_states
from tests.support.lstms import architectures, assert_close, examples, seeds

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


every_kernel = pytest.mark.parametrize("kernel", NAMES)


encoder_of = partial(encoders.encoder_of, num_layers=1)


# -- the judge --------------------------------------------------------------------------------


def judge_of(encoder: SequenceEncoder) -> list[list[nn.LSTM]]:
    """By layer and direction, in float64."""
    (own,) = encoder.lstms
    layers = []
    for layer in range(own.num_layers):
        width = own.num_directions * own.output_size if layer else own.input_size
        directions = []
        for suffix in ("", "_reverse")[: own.num_directions]:
            lstm = nn.LSTM(
                width,
                own.hidden_size,
                bias=own.bias,
                proj_size=own.proj_size,
                dtype=torch.float64,
            ).requires_grad_(False)
            for name, parameter in lstm.named_parameters():
                parameter.copy_(own.get_parameter(name.replace("l0", f"l{layer}{suffix}")))
            directions.append(lstm)
        layers.append(directions)
    return layers


def judge_live(encoder: SequenceEncoder, live: Live) -> Tensor:
    """The scheme, block by block and layer by layer."""
    count = encoder.lstms[0].num_directions
    judge = judge_of(encoder)
    carries: list[States | None] = [None] * len(judge)
    found = []
    for start, stop, end in live.cuts():
        h_0, c_0 = (s.double() for s in initial_states(encoder, live, end == live.steps))
        x, block = live.inputs[0][start:end], stop - start
        rows = (x if x.dim() == 2 else encoder.get_parameter("embedding.weight")[x]).double()
        for index, (forward, *backward) in enumerate(judge):
            own = index * count
            y, carry = forward(rows[:block], carries[index] or (h_0[own], c_0[own]))
            carries[index] = carry
            if end > stop:
                y = torch.cat([y, forward(rows[block:], carry)[0]])
            for lstm in backward:
                back, _ = lstm(rows.flip(0), (h_0[own + 1], c_0[own + 1]))
                y = torch.cat([y, back.flip(0)], dim=1)
            rows = y
        found.append(rows[:block])
    return torch.cat(found)


# -- the claims -------------------------------------------------------------------------------

cuts = st.tuples(st.integers(1, 60), st.integers(1, 20), st.just(0) | st.integers(1, 30))


@every_kernel
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)],
    ids=str,
)
@pytest.mark.parametrize("embedded", [False, True], ids=["floats", "ids"])
@examples(12)
@given(architectures(1, 12), st.lists(cuts, min_size=1, max_size=4), st.booleans(), seeds)
def test_scheme(
    embedded: bool,
    dtype: torch.dtype,
    tolerance: float,
    kernel: str,
    architecture: dict[str, Any],
    cuts: list[tuple[int, int, int]],
    stateful: bool,
    seed: int,
) -> None:
    """Blocks of several sequences in one call, of any lengths and contexts, are each what the
    scheme gives for the sequence alone."""
    embedding: dict[str, Any] = {"embedding": {"num_embeddings": VOCABULARY}} if embedded else {}
    encoder = encoder_of(kernel, dtype, seed, **architecture, **embedding)
    sequences = [
        Live(
            draw_inputs(encoder, steps), block, lookahead, draw_state(encoder) if stateful else None
        )
        for steps, block, lookahead in cuts
    ]
    for live, actual in zip(sequences, encode_live(encoder, sequences), strict=True):
        assert actual["states"].dtype == dtype
        assert_close(actual["states"].double(), judge_live(encoder, live), tolerance)


def states_of(encoder: SequenceEncoder, live: Live) -> Tensor:
    return encode_live(encoder, [live])[0]["states"]


def whole(encoder: SequenceEncoder, live: Live) -> Tensor:
    return slicing.whole(encoder, live.inputs, ["states"], live.hx)["states"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_all_of_the_rest(layers: int, stateful: bool, dtype: torch.dtype) -> None:
    """With contexts that reach the sequence's end the states are the exact ones, of any number of
    layers, and on the cpu kernel to the bit."""
    encoder = encoder_of("cpu", dtype, num_layers=layers, hidden_size=33, proj_size=9)
    hx = draw_state(encoder) if stateful else None
    live = Live(draw_inputs(encoder, 150), 20, 150, hx)
    assert torch.equal(states_of(encoder, live), whole(encoder, live))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lookahead", [0, 3])
def test_forward_is_exact(dtype: torch.dtype, lookahead: int) -> None:
    """One layer's forward columns are the exact ones with any context, to the bit; its backward
    ones are not."""
    encoder = encoder_of("cpu", dtype, hidden_size=33)
    live = Live(draw_inputs(encoder, 150), 20, lookahead)
    actual, exact = states_of(encoder, live), whole(encoder, live)
    assert torch.equal(actual[:, :33], exact[:, :33])
    assert torch.equal(actual[140:], exact[140:])  # the last block
    assert not torch.equal(actual[:, 33:], exact[:, 33:])


@pytest.mark.parametrize("layers", [1, 2])
def test_one_direction_is_exact(layers: int) -> None:
    """A model of one direction needs no context, and reads none."""
    encoder = encoder_of("cpu", bidirectional=False, num_layers=layers)
    live = Live(draw_inputs(encoder, 150), 20, 0, draw_state(encoder))
    exact = whole(encoder, live)
    assert torch.equal(states_of(encoder, live), exact)
    assert torch.equal(states_of(encoder, live._replace(lookahead=7)), exact)


FEATURES = {"x": {"width": 5}}
CONV = {"type": "conv1d", "width": 4, "kernel": 5}
ONE_WAY = {"type": "lstm", "hidden_size": 6, "bidirectional": False}


def differing(encoder: SequenceEncoder, output: str, block: int, lookahead: int) -> list[int]:
    """The steps of a live sequence of 30 that are not as they are in the whole one."""
    live = Live(draw_inputs(encoder, 30), block, lookahead)
    exact = slicing.whole(encoder, live.inputs, [output])[output]
    actual = encode_live(encoder, [live], [output])[0][output]
    return (actual != exact).any(dim=1).nonzero().flatten().tolist()


@pytest.mark.parametrize("block", [1, 3, 7, 30])
def test_windows_of_the_past(block: int) -> None:
    """Windows that reach back only are exact without a context, where they reach back over several
    blocks too, and so is an LSTM of one direction behind them."""
    layers = (
        {"name": "conv", **CONV, "padding": [4, 0]},
        {"name": "dilated", **CONV, "padding": [8, 0], "dilation": 2},
        {"name": "lstm", **ONE_WAY},
    )
    encoder = graph_of("cpu", FEATURES, *layers)
    assert differing(encoder, "lstm", block, 0) == []


def test_windows_of_what_follows() -> None:
    """Windows that reach on are exact where the context has as many steps as all of them together,
    and with fewer not at the ends of blocks; an LSTM carries that on."""
    layers = (
        {"name": "first", **CONV, "padding": "same"},
        {"name": "second", **CONV, "padding": [1, 3]},
        {"name": "lstm", **ONE_WAY},
    )
    encoder = graph_of("cpu", FEATURES, *layers)
    assert differing(encoder, "lstm", 10, 5) == []
    assert differing(encoder, "second", 10, 5) == []
    assert differing(encoder, "second", 10, 4) == [9, 19]
    assert differing(encoder, "second", 10, 3) == [8, 9, 18, 19]
    assert differing(encoder, "second", 10, 0)[:6] == [5, 6, 7, 8, 9, 10]
    assert differing(encoder, "lstm", 10, 4) == list(range(9, 30))


def test_largest_of_windows() -> None:
    """What lies behind a context is padding also for windows of maxima."""
    encoder = graph_of(
        "cpu",
        FEATURES,
        {"name": "largest", "type": "max_pool1d", "kernel": 3, "padding": "same"},
        {"name": "lstm", **ONE_WAY},
    )
    assert differing(encoder, "largest", 7, 1) == []
    short = differing(encoder, "largest", 7, 0)
    assert short
    assert set(short) <= {6, 13, 20, 27}


def test_backwards() -> None:
    """An LSTM that goes from the end begins anew at each context's end, from its learned states."""
    lstm = {"type": "lstm", "hidden_size": 6, "bidirectional": False, "initial_states": True}
    encoder = graph_of("cpu", FEATURES, {"name": "lstm", **lstm, "reverse": True})
    live = Live(draw_inputs(encoder, 30), 10, 4)
    actual = encode_live(encoder, [live], ["lstm"])[0]["lstm"]
    for start, stop, end in live.cuts():
        part = [x[start:end] for x in live.inputs]
        expected = slicing.whole(encoder, part, ["lstm"])["lstm"]
        assert torch.equal(actual[start:stop], expected[: stop - start])


def test_context_is_not_read() -> None:
    """What nothing of the block depends on is not computed: NaNs in it change nothing."""
    encoder = graph_of(
        "cpu",
        FEATURES,
        {"name": "conv", **CONV, "padding": [4, 0]},
        {"name": "lstm", **ONE_WAY, "num_layers": 2},
        {"name": "linear", "type": "linear", "width": 3},
    )
    (x,) = draw_inputs(encoder, 20)
    sick = x.clone()
    sick[10:] = torch.nan
    outputs = ["conv", "lstm", "linear"]
    expected, _ = encode_blocks(encoder, [x[:10]], [10], [0], [None], None, outputs)
    actual, carried = encode_blocks(encoder, [sick], [10], [10], [None], None, outputs)
    slicing.assert_same_bits(actual, expected)
    assert all(tensor.isfinite().all() for own in carried[0].values() for tensor in own)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@every_kernel
def test_carry(kernel: str, dtype: torch.dtype) -> None:
    """What is carried is one sequence's own, in float32 at least."""
    encoder = encoder_of(kernel, dtype, num_layers=2, hidden_size=6, proj_size=4)
    _, carries = encode_blocks(encoder, draw_inputs(encoder, 30), [10, 5], [0, 15], [None, None])
    assert len(carries) == 2
    for carried in carries:
        carry = carried["lstm"]
        assert isinstance(carry, LiveState)
        assert (carry.h.shape, carry.c.shape) == ((2, 4), (2, 6))
        for state in carry:
            assert state.dtype == torch.promote_types(dtype, torch.float32)
            assert state.untyped_storage().nbytes() == state.numel() * state.itemsize


@pytest.mark.parametrize("block", [2, 9])
def test_carried_rows(block: int) -> None:
    """Of rows that windows reach back to is carried what there is, as a copy; and nothing of other
    layers."""
    layers = (
        {"name": "conv", **CONV, "padding": [4, 0]},
        {"name": "ahead", **CONV, "padding": [0, 4]},
        {"name": "linear", "type": "linear", "width": 3},
        {"name": "lstm", **ONE_WAY, "reverse": True},
    )
    encoder = graph_of("cpu", FEATURES, *layers)
    (x,) = draw_inputs(encoder, 2 * block)
    _, carries = encode_blocks(encoder, [x], [block] * 2, [0, 0], [None, None], None, ["lstm"])
    for carried, own in zip(carries, torch.split(x, block), strict=True):
        assert carried.keys() == {"conv"}
        rows = carried["conv"]
        assert isinstance(rows, Tensor)
        assert torch.equal(rows, own[-4:])
        assert rows.untyped_storage().nbytes() == rows.numel() * rows.itemsize
