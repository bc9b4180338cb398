"""Live streams on a real server: results while input still arrives, exact where they say so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.model import load_model
from tests.rpc.streams.talk import Talk, chunk, talking
from tests.support.engines import gated_server, until
from tests.support.lstms import examples
from tests.support.servers import RunningServer, settings, write_model

Array = NDArray[Any]
WIDTH, HIDDEN = 5, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "one", num_layers=1)


@pytest.fixture(scope="module")
def live_server(folder: Path, model_folder: Path) -> Iterator[RunningServer]:
    """`one` has one layer, `small` two."""
    running = RunningServer(settings(model=[("one", folder), ("small", model_folder)]))
    yield running
    running.close()


@pytest.fixture(scope="module")
def judge(folder: Path) -> nn.LSTM:
    """torch's own, with the weights of `one`."""
    lstm: nn.LSTM = load_model(folder, torch.device("cpu"), torch.float32).lstm.to_torch()
    return lstm


def sequence(seed: int, steps: int) -> Array:
    return np.random.default_rng(seed).standard_normal((steps, WIDTH), np.float32)


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


async def test_a_bad_chunk_ends_a_live_sequence(live_server: RunningServer) -> None:
    """What was due before it is answered, then the error; other sequences go on."""
    async with talking(live_server.target) as talk:
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        await talk.send(chunk(0, sequence(0, 5)), chunk(1, sequence(0, 4)))
        await talk.send(chunk(0, np.zeros((2, 3), "<f4")), chunk(0, sequence(0, 9), last=True))
        await talk.send(chunk(1, last=True))
        await talk.finish()
    assert [a.first_step for a in talk.answers[0][:-1]] == [0]
    assert talk.error(0).field == "steps.shape"
    assert talk.order == [0, 1]
    assert talk.answers[0][0].last is False


async def test_an_end_that_comes_late(live_server: RunningServer) -> None:
    """A sequence that ends where all of it was answered is closed by a chunk of no steps."""
    async with talking(live_server.target) as talk:
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        await talk.send(chunk(0, sequence(0, 8)))
        while len(talk.answers.get(0, ())) < 2:
            await talk.receive()
        assert talk.order == []
        await talk.send(chunk(0, last=True))
        await talk.finish()
    closing = talk.answers[0].pop()
    assert (closing.last, closing.first_step) == (True, 8)
    assert not closing.encoding.HasField("states")
    assert talk.states(0).shape == (8, 2 * HIDDEN)


@pytest.mark.parametrize("leaves", [False, True])
async def test_drain(folder: Path, leaves: bool) -> None:
    """A live sequence that has ended is answered to its end; one that goes on is dropped."""
    async with (
        gated_server(settings(model=[("one", folder)])) as (app, gated),
        talking(f"127.0.0.1:{app.port}") as talk,
    ):

        def held() -> float:
            return app.metrics.registry.get_sample_value("bilstm_stream_bytes") or 0.0

        step_bytes = 4 * (WIDTH + 2 * HIDDEN)
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=2))
        await talk.send(chunk(0, sequence(0, 10), last=not leaves))
        await talk.send(chunk(1, sequence(0, 5)))
        await gated.engines["one"].arrival()
        await until(lambda: held() == 2 * 14 * step_bytes)
        draining = asyncio.create_task(app.drain())
        await until(lambda: not any(model.batcher.has_room for model in app.models))
        gated.open()
        if not leaves:
            await talk.until_answered(0)
            assert talk.states(0).shape == (10, 2 * HIDDEN)
        assert (await talk.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert await draining
        dropped = app.metrics.registry.get_sample_value(
            "bilstm_dropped_total", {"model": "one", "reason": "draining"}
        )
        assert dropped == (2 if leaves else 1)


async def test_a_block_that_fails(folder: Path) -> None:
    """Its sequence ends with an error; what still comes of it is ignored, and holds nothing."""

    def fault(staged: StagedBatch) -> None:
        raise ArithmeticError("no")

    async with (
        gated_server(settings(model=[("one", folder)])) as (app, gated),
        talking(f"127.0.0.1:{app.port}") as talk,
    ):
        gated.engines["one"].fault = fault
        gated.open()
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        await talk.send(chunk(0, sequence(0, 5)))
        await talk.until_answered(0)
        assert talk.error(0).error_id
        gated.engines["one"].fault = lambda staged: None
        for _ in range(100):
            await talk.send(chunk(0, sequence(0, 50)))
        await talk.send(chunk(0, last=True), chunk(1, sequence(0, 4), last=True))
        await talk.finish()
        assert app.metrics.registry.get_sample_value("bilstm_stream_bytes") == 0
    assert talk.states(1).shape == (4, 2 * HIDDEN)


async def test_more_live_sequences_than_there_may_be(folder: Path) -> None:
    """One more is refused; those that there are go on."""
    few = settings(model=[("one", folder)], max_stream_sequences=3)
    async with (
        gated_server(few) as (app, gated),
        talking(f"127.0.0.1:{app.port}") as talk,
    ):
        gated.open()
        await talk.open(live=pb.Live(block_steps=4, lookahead_steps=0))
        for index in range(4):
            await talk.send(chunk(index, sequence(0, 2)))
        await talk.until_answered(3)
        assert talk.error(3).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert talk.error(3).HasField("retry_delay")
        await talk.send(*(chunk(index, sequence(0, 2), last=True) for index in range(4)))
        await talk.finish()
    assert all(talk.states(index).shape == (4, 2 * HIDDEN) for index in range(3))


async def test_live_streams_that_fill_the_memory(folder: Path) -> None:
    """Live streams whose look-ahead takes all the memory there is go on, one after the other."""
    step_bytes = 4 * (WIDTH + 2 * HIDDEN)
    tight = settings(
        model=[("one", folder)],
        max_stream_bytes=100 * step_bytes,
        max_streams_bytes=200 * step_bytes,
    )
    async with gated_server(tight) as (app, gated), AsyncExitStack() as stack:
        gated.open()
        x = sequence(0, 200)

        async def one(talk: Talk) -> None:
            await talk.open(live=pb.Live(block_steps=3, lookahead_steps=70))
            for start in range(0, len(x), 10):
                await talk.send(chunk(0, x[start : start + 10], last=start + 10 == len(x)))
            await talk.finish()

        target = f"127.0.0.1:{app.port}"
        talks = [await stack.enter_async_context(talking(target)) for _ in range(3)]
        await asyncio.gather(*(one(talk) for talk in talks))
    assert all(talk.states(0).shape == (200, 2 * HIDDEN) for talk in talks)


async def test_a_live_stream_is_bounded(folder: Path) -> None:
    """Input that comes faster than it is computed waits at the client, and none of it is lost."""
    step_bytes = 4 * (WIDTH + 2 * HIDDEN)
    room = settings(model=[("one", folder)], max_stream_bytes=100 * step_bytes)
    holds = (10 + 5 + 2 * 10) * step_bytes  # a block, its look-ahead, and two on their way
    async with gated_server(room) as (app, gated), talking(f"127.0.0.1:{app.port}") as talk:

        def held() -> float:
            return app.metrics.registry.get_sample_value("bilstm_stream_bytes") or 0.0

        await talk.open(live=pb.Live(block_steps=10, lookahead_steps=5))
        x = sequence(0, 20_000)

        async def send() -> None:
            for start in range(0, len(x), 10):
                await talk.send(chunk(0, x[start : start + 10], last=start + 10 == len(x)))
            await talk.done()

        sending = asyncio.create_task(send())
        await until(lambda: held() > 0)
        gated.open()
        while await talk.receive():
            assert held() in (holds, 0)
        await sending
        assert held() == 0
    assert talk.states(0).shape == (len(x), 2 * HIDDEN)
