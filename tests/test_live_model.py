"""`encode_blocks`: latency-controlled encoding is the scheme that it says it is.

The judge computes the scheme offline, a sequence and a block at a time, with an nn.LSTM for each
layer and direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import encoders
import pytest
import torch
from encoders import VOCABULARY, draw_state, draw_steps
from hypothesis import given
from hypothesis import strategies as st
from lstms import architectures, assert_close, examples, seeds
from torch import Tensor, nn

from bilstm_server.model import Encodings, Output, RaggedBatch
from bilstm_server.model.bilstm import States
from bilstm_server.model.encoder import SequenceEncoder
from bilstm_server.model.incremental.live import LiveState, encode_blocks
from bilstm_server.model.kernels import NAMES

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


every_kernel = pytest.mark.parametrize("kernel", NAMES)


encoder_of = partial(encoders.encoder_of, num_layers=1)


# -- the blocks of a sequence, by way of what is tested ----------------------------------------


class Live(NamedTuple):
    """A sequence whose steps come one by one, and how it is cut."""

    x: Tensor
    block: int
    lookahead: int
    hx: States | None = None

    def cuts(self) -> Iterator[tuple[int, int, int]]:
        """Where each block begins and ends, and its context ends."""
        for start in range(0, len(self.x), self.block):
            stop = min(start + self.block, len(self.x))
            yield start, stop, min(stop + self.lookahead, len(self.x))


def initial_states(encoder: SequenceEncoder, live: Live, is_end: bool) -> States:
    """[layers*K, 1, …]: the backward direction's only at the sequence's end."""
    config = encoder.config
    widths = (config.state_size, config.hidden_size)
    given = live.hx or [torch.zeros(config.state_rows, n, dtype=encoder.dtype) for n in widths]
    initial = []
    for states in given:
        own = states.clone()
        if config.bidirectional and not is_end:
            own[1::2] = 0
        initial.append(own.unsqueeze(1))
    return initial[0], initial[1]


def encode_live(encoder: SequenceEncoder, sequences: Sequence[Live]) -> list[Tensor]:
    """Each sequence's states, the first blocks of all in one call, then the second …"""
    cuts = [live.cuts() for live in sequences]
    carried: list[LiveState | None] = [None] * len(sequences)
    found: list[list[Tensor]] = [[] for _ in sequences]
    while True:
        blocks = [(index, cut) for index, own in enumerate(cuts) if (cut := next(own, None))]
        if not blocks:
            return [torch.cat(own) for own in found]
        ends = [stop == len(sequences[index].x) for index, (_, _, stop) in blocks]
        states = [
            initial_states(encoder, sequences[index], is_end)
            for (index, _), is_end in zip(blocks, ends, strict=True)
        ]
        lengths = [stop - start for _, (start, stop, _) in blocks]
        y, carries = encode_blocks(
            encoder,
            torch.cat([sequences[index].x[start:end] for index, (start, _, end) in blocks]),
            lengths,
            [end - stop for _, (_, stop, end) in blocks],
            [carried[index] for index, _ in blocks],
            (torch.cat([h for h, _ in states], dim=1), torch.cat([c for _, c in states], dim=1)),
        )
        rows = torch.split(y, lengths)
        for (index, _), own, carry in zip(blocks, rows, carries, strict=True):
            found[index].append(own)
            carried[index] = carry


# -- the judge --------------------------------------------------------------------------------


def judge_of(encoder: SequenceEncoder) -> list[list[nn.LSTM]]:
    """By layer and direction, in float64."""
    config = encoder.config
    layers = []
    for layer in range(config.num_layers):
        width = config.encoding_size if layer else config.input_size
        directions = []
        for suffix in ("", "_reverse")[: config.num_directions]:
            lstm = nn.LSTM(
                width,
                config.hidden_size,
                bias=config.bias,
                proj_size=config.proj_size,
                dtype=torch.float64,
            ).requires_grad_(False)
            for name, parameter in lstm.named_parameters():
                own = name.replace("l0", f"l{layer}{suffix}")
                parameter.copy_(encoder.lstm.get_parameter(own))
            directions.append(lstm)
        layers.append(directions)
    return layers


def judge_live(encoder: SequenceEncoder, live: Live) -> Tensor:
    """The scheme, block by block and layer by layer."""
    count = encoder.config.num_directions
    judge = judge_of(encoder)
    carries: list[States | None] = [None] * len(judge)
    found = []
    for start, stop, end in live.cuts():
        h_0, c_0 = (s.double() for s in initial_states(encoder, live, end == len(live.x)))
        rows, block = encoder.embed(live.x[start:end]).double(), stop - start
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
            draw_steps(encoder, steps), block, lookahead, draw_state(encoder) if stateful else None
        )
        for steps, block, lookahead in cuts
    ]
    for live, actual in zip(sequences, encode_live(encoder, sequences), strict=True):
        assert actual.dtype == dtype
        assert_close(actual.double(), judge_live(encoder, live), tolerance)


def whole(encoder: SequenceEncoder, live: Live) -> Tensor:
    hx = None if live.hx is None else (live.hx[0].unsqueeze(1), live.hx[1].unsqueeze(1))
    with torch.inference_mode():
        encodings: Encodings = encoder(live.x, RaggedBatch([len(live.x)]), hx, [Output.STATES])
    assert encodings.states is not None
    return encodings.states


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_all_of_the_rest(layers: int, stateful: bool, dtype: torch.dtype) -> None:
    """With contexts that reach the sequence's end the states are the exact ones, of any number of
    layers, and on the cpu kernel to the bit."""
    encoder = encoder_of("cpu", dtype, num_layers=layers, hidden_size=33, proj_size=9)
    hx = draw_state(encoder) if stateful else None
    live = Live(draw_steps(encoder, 150), 20, 150, hx)
    assert torch.equal(encode_live(encoder, [live])[0], whole(encoder, live))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lookahead", [0, 3])
def test_forward_is_exact(dtype: torch.dtype, lookahead: int) -> None:
    """One layer's forward columns are the exact ones with any context, to the bit; its backward
    ones are not."""
    encoder = encoder_of("cpu", dtype, hidden_size=33)
    live = Live(draw_steps(encoder, 150), 20, lookahead)
    actual, exact = encode_live(encoder, [live])[0], whole(encoder, live)
    assert torch.equal(actual[:, :33], exact[:, :33])
    assert torch.equal(actual[140:], exact[140:])  # the last block
    assert not torch.equal(actual[:, 33:], exact[:, 33:])


@pytest.mark.parametrize("layers", [1, 2])
def test_one_direction_is_exact(layers: int) -> None:
    """A model of one direction needs no context, and reads none."""
    encoder = encoder_of("cpu", bidirectional=False, num_layers=layers)
    live = Live(draw_steps(encoder, 150), 20, 0, draw_state(encoder))
    exact = whole(encoder, live)
    assert torch.equal(encode_live(encoder, [live])[0], exact)
    assert torch.equal(encode_live(encoder, [live._replace(lookahead=7)])[0], exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@every_kernel
def test_carry(kernel: str, dtype: torch.dtype) -> None:
    """What is carried is one sequence's own, in float32 at least."""
    encoder = encoder_of(kernel, dtype, num_layers=2, hidden_size=6, proj_size=4)
    x = draw_steps(encoder, 30)
    _, carries = encode_blocks(encoder, x, [10, 5], [0, 15], [None, None])
    assert len(carries) == 2
    for carry in carries:
        assert (carry.h.shape, carry.c.shape) == ((2, 4), (2, 6))
        for state in carry:
            assert state.dtype == torch.promote_types(dtype, torch.float32)
            assert state.untyped_storage().nbytes() == state.numel() * state.itemsize
