"""Live streams on a real server: results come while input does, exact where they say so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.model import load_model
from tests.rpc.streams.live.sequences import HIDDEN, Array, sequence
from tests.rpc.streams.talk import Talk, chunk, talking
from tests.support.lstms import examples
from tests.support.servers import RunningServer


@pytest.fixture(scope="module")
def judge(folder: Path) -> nn.LSTM:
    """torch's own, with the weights of `one`."""
    lstm: nn.LSTM = load_model(folder, torch.device("cpu"), torch.float32).lstms[0].to_torch()
    return lstm


@torch.no_grad()
def offline(judge: nn.LSTM, x: Array, block: int, lookahead: int) -> Array:
    """The scheme as it is defined: forward carried from block to block; reverse over each block and
    its right context, from zeros."""
    steps = torch.from_numpy(x)
    forward, _ = judge(steps)
    blocks = []
    for start in range(0, len(x), block):
        seen, _ = judge(steps[start : start + block + lookahead])
        blocks.append(seen[: min(block, len(x) - start), HIDDEN:])
    return torch.cat([forward[:, :HIDDEN], torch.cat(blocks)], dim=1).numpy()


async def talk_live(talk: Talk, x: Array, cuts: list[int], live: pb.Live) -> None:
    await talk.open(model="one", live=live)
    parts = np.split(x, cuts)
    for index, part in enumerate(parts):
        await talk.send(chunk(0, part, last=index == len(parts) - 1))
    await talk.finish()


@given(data=st.data())
@examples(40)
def test_the_scheme(live_server: RunningServer, judge: nn.LSTM, data: st.DataObject) -> None:
    """However the input is cut, the results are the offline computation's, in blocks, and exact
    where they say so."""
    steps = data.draw(st.integers(1, 60))
    block, lookahead = data.draw(st.integers(1, 25)), data.draw(st.integers(0, 25))
    cuts = sorted(data.draw(st.lists(st.integers(0, steps), max_size=6)))
    x = sequence(steps, steps)
    live = pb.Live(block_steps=block, lookahead_steps=lookahead)

    async def talk_all() -> Talk:
        async with talking(live_server.target) as talk:
            await talk_live(talk, x, cuts, live)
            return talk

    answers = asyncio.run(talk_all()).answers[0]
    actual = np.concatenate([tensors.decode(a.encoding.states) for a in answers])
    np.testing.assert_allclose(actual, offline(judge, x, block, lookahead), atol=1e-5)
    assert [a.first_step for a in answers] == list(range(0, steps, block))
    with torch.no_grad():
        exact = judge(torch.from_numpy(x))[0].numpy()
    for answer in answers:
        states: Array = tensors.decode(answer.encoding.states)
        own = exact[answer.first_step : answer.first_step + len(states)]
        assert answer.forward_exact
        assert answer.reverse_exact == (answer.first_step + block + lookahead >= steps)
        np.testing.assert_allclose(states[:, :HIDDEN], own[:, :HIDDEN], atol=1e-5)
        if answer.reverse_exact:
            np.testing.assert_allclose(states, own, atol=1e-5)


async def test_results_come_while_input_does(live_server: RunningServer) -> None:
    """A block is answered once its context has come, not when the sequence ends; several sequences
    go on beside each other."""
    async with talking(live_server.target) as talk:
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=2))
        for index in (1, 2):
            await talk.send(chunk(index, sequence(index, 6)))
        for index in (1, 2):
            while index not in talk.answers:
                await talk.receive()
        assert {i: [a.first_step for a in answers] for i, answers in talk.answers.items()} == {
            1: [0],
            2: [0],
        }
        await talk.send(chunk(2, sequence(2, 3)))  # nine, of which a block needs ten
        await talk.send(chunk(1, last=True), chunk(2, last=True))
        await talk.finish()
    assert [a.first_step for a in talk.answers[1]] == [0, 4]
    assert [a.first_step for a in talk.answers[2]] == [0, 4, 8]
    assert talk.states(2).shape == (9, 2 * HIDDEN)


async def test_several_layers_are_approximate(live_server: RunningServer) -> None:
    """Upper layers read what is approximate: exact is only a sequence that is one block."""
    async with talking(live_server.target) as talk:
        await talk.open(model="small", live=pb.Live(block_steps=4, lookahead_steps=8))
        await talk.send(chunk(0, sequence(0, 20), last=True))
        await talk.send(chunk(1, sequence(1, 12), last=True))
        await talk.finish()
    flags = {
        index: [(a.forward_exact, a.reverse_exact) for a in answers]
        for index, answers in talk.answers.items()
    }
    assert flags == {0: [(False, False)] * 5, 1: [(True, True)] + [(False, False)] * 2}


async def test_an_initial_state(live_server: RunningServer, judge: nn.LSTM) -> None:
    """Each direction begins with its own: forward at the first step, reverse at the last."""
    x, state = sequence(0, 10), np.random.default_rng(1).standard_normal((2, 2, 6), np.float32)
    async with talking(live_server.target) as talk:
        await talk.open(model="one", live=pb.Live(block_steps=4, lookahead_steps=3))
        first = chunk(0, x, last=True)
        first.initial_state.hidden.CopyFrom(tensors.encode(state[0]))
        first.initial_state.cell.CopyFrom(tensors.encode(state[1]))
        await talk.send(first)
        await talk.finish()
    hx = (torch.from_numpy(state[0]), torch.from_numpy(state[1]))
    with torch.no_grad():
        exact = judge(torch.from_numpy(x), hx)[0].numpy()
        plain = judge(torch.from_numpy(x[:7]))[0].numpy()
    actual = talk.states(0)
    np.testing.assert_allclose(actual[:, :HIDDEN], exact[:, :HIDDEN], atol=1e-5)
    np.testing.assert_allclose(actual[4:, HIDDEN:], exact[4:, HIDDEN:], atol=1e-5)
    np.testing.assert_allclose(actual[:4, HIDDEN:], plain[:4, HIDDEN:], atol=1e-5)
