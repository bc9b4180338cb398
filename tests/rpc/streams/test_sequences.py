"""A stream's sequences have the results, the order and the types that were asked for, with the bits
that each has alone.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import AsyncClient
from tests.rpc.streams.served import LONG, metric, sequence, target
from tests.rpc.streams.talk import Talk, chunk, talking
from tests.support.engines import first_batcher, gated_server, held_server
from tests.support.lstms import examples
from tests.support.servers import RunningServer, settings
from tests.support.waiting import until

ALL = ("STATES", "FINAL", "MEAN", "MAX", "LOGITS", "STATE")


# -- results -------------------------------------------------------------------------------------


@given(data=st.data())
@examples(25)
def test_any_interleaving(server: RunningServer, judge: Any, data: st.DataObject) -> None:
    """However sequences are cut and interleaved, each has the bits that it has alone."""
    lengths = data.draw(st.lists(st.integers(1, 400) | st.integers(2_000, 3_000), max_size=5))
    arrays = [sequence(seed, steps) for seed, steps in enumerate(lengths)]
    cuts = [
        sorted(data.draw(st.lists(st.integers(0, steps), max_size=4), label="cuts"))
        for steps in lengths
    ]
    parts = [list(np.split(x, own)) for x, own in zip(arrays, cuts, strict=True)]
    begun = 0
    sends: list[pb.SequenceChunk] = []
    while any(parts):
        # A sequence begins only behind those with lower ids.
        choices = [i for i in range(min(begun + 1, len(parts))) if parts[i]]
        index = data.draw(st.sampled_from(choices), label="next")
        begun = max(begun, index + 1)
        part = parts[index].pop(0)
        sends.append(chunk(index, part, last=not parts[index]))
    any_order = data.draw(st.booleans())

    async def talk_all() -> Talk:
        async with talking(server.target) as talk:
            await talk.open(any_order=any_order)
            for one in sends:
                await talk.send(one)
            await talk.finish()
            return talk

    talk = asyncio.run(talk_all())
    if not any_order:
        assert talk.order == [one.id for one in sends if one.last]
    assert sorted(talk.order) == list(range(len(arrays)))
    for index, x in enumerate(arrays):
        np.testing.assert_array_equal(talk.states(index), judge(x))


@pytest.mark.parametrize("steps", [7, LONG])
async def test_every_output(server: RunningServer, steps: int) -> None:
    """All outputs are those of `Encode`, bit for bit, in the type that was asked for, with the
    initial state that was given."""
    x = sequence(1, steps)
    state = pb.State(
        hidden=tensors.encode(sequence(2, 4).repeat(2, 1)[:, :6]),
        cell=tensors.encode(sequence(3, 4).repeat(2, 1)[:, :6]),
    )
    outputs = [pb.Output.Value(f"OUTPUT_{name}") for name in ALL]
    async with talking(server.target) as talk:
        opened = await talk.open(outputs=outputs, output_data_type=pb.DATA_TYPE_FLOAT16)
        assert (opened.model, opened.version) == ("small", "1")
        first, last = chunk(0, x[:3]), chunk(0, x[3:], last=True)
        first.initial_state.CopyFrom(state)
        await talk.send(first)
        await talk.send(last)
        await talk.finish()
    (only,) = talk.answers[0]
    async with AsyncClient(server.target) as client:
        expected = await client.encode(
            x,
            outputs=[name.lower() for name in ALL],
            output_data_type="float16",
            initial_state=(tensors.decode(state.hidden), tensors.decode(state.cell)),
        )
    for name in ("states", "final", "mean", "max", "logits"):
        own = tensors.decode(getattr(only.encoding, name))
        np.testing.assert_array_equal(own, getattr(expected, name), err_msg=name)
    assert expected.state is not None
    for name in ("hidden", "cell"):
        own = tensors.decode(getattr(only.encoding.state, name))
        np.testing.assert_array_equal(own, getattr(expected.state, name), err_msg=name)
    assert only.timing.batch_tokens >= steps
    assert (only.forward_exact, only.reverse_exact) == (True, True)


async def test_token_ids(server: RunningServer) -> None:
    """A model with an embedding takes ids, long sequences too."""
    ids = np.random.default_rng(0).integers(0, 20, LONG).astype("<i4")
    async with talking(server.target) as talk:
        await talk.open(model="tokens")
        await talk.send(chunk(4, ids[:100]))
        await talk.send(chunk(4, ids[100:], last=True))
        await talk.finish()
    async with AsyncClient(server.target) as client:
        expected = await client.encode(ids, model="tokens")
    np.testing.assert_array_equal(talk.states(4), expected.states)


async def test_large_results_come_in_chunks(server: RunningServer, judge: Any) -> None:
    """A result of several megabytes comes in several messages, in order."""
    x = sequence(0, 60_000)
    async with talking(server.target) as talk:
        await talk.open()
        for start in range(0, len(x), 10_000):
            await talk.send(chunk(0, x[start : start + 10_000], last=start == 50_000))
        await talk.finish()
    assert len(talk.answers[0]) > 2
    np.testing.assert_array_equal(talk.states(0), judge(x))


@pytest.mark.parametrize("any_order", [False, True])
async def test_order(model_folder: Path, judge: Any, any_order: bool) -> None:
    """A short sequence does not wait for a long one before it, unless the client wants order."""
    async with (
        held_server(settings(model=[("small", model_folder)])) as (app, slices),
        talking(target(app)) as talk,
        AsyncClient(target(app)) as client,
    ):
        await talk.open(any_order=any_order)
        await talk.whole(1, sequence(1, LONG))
        await talk.whole(2, sequence(2, 3))
        if any_order:
            await talk.until_answered(2)
        else:  # the short one is computed, and held back
            await until(lambda: metric(app, "bilstm_sequences_total", model="small") >= 1)
        unary = await client.encode(sequence(3, 4))
        np.testing.assert_array_equal(unary.states, judge(sequence(3, 4)))
        slices.first.held = False
        await talk.finish()
    assert talk.order == ([2, 1] if any_order else [1, 2])
    for index, steps in ((1, LONG), (2, 3)):
        np.testing.assert_array_equal(talk.states(index), judge(sequence(index, steps)))


async def test_streams_and_calls_share_batches(model_folder: Path) -> None:
    """Sequences of two streams and of a call that wait together are computed together."""
    async with (
        gated_server(settings(model=[("small", model_folder)])) as (app, gated),
        talking(target(app)) as one,
        talking(target(app)) as other,
        AsyncClient(target(app)) as client,
    ):
        engine = gated.engines["small"]
        first = asyncio.create_task(client.encode(sequence(0, 1)))
        await engine.arrival()
        await one.open()
        await one.whole(0, sequence(0, 2))
        await other.open()
        await other.whole(0, sequence(0, 3))
        call = asyncio.create_task(client.encode(sequence(0, 4)))
        await until(lambda: metric(app, "bilstm_queue_sequences", model="small") == 3)
        gated.open()
        await asyncio.gather(first, call, one.finish(), other.finish())
    assert sorted(map(sorted, engine.batches)) == [[1], [2, 3, 4]]


# -- ends ----------------------------------------------------------------------------------------


async def test_streams_have_their_turns(model_folder: Path) -> None:
    """Where calls fill every batch, a stream's sequence waits no longer than one of them."""
    full = settings(model=[("small", model_folder)], max_batch_sequences=4)
    async with (
        gated_server(full) as (app, gated),
        talking(target(app)) as talk,
        AsyncClient(target(app)) as client,
    ):
        done = 0

        async def call() -> None:
            nonlocal done
            while not talk.order:
                await client.encode(sequence(0, 3))
                done += 1

        calls = [asyncio.create_task(call()) for _ in range(24)]
        await until(lambda: metric(app, "bilstm_queue_sequences", model="small") >= 16)
        await talk.open()
        await talk.whole(0, sequence(0, 3))
        await until(lambda: bool(first_batcher(app)._turns or talk.order))
        gated.open()
        await talk.until_answered(0)
        assert done <= 2 * 24
        await asyncio.gather(*calls)


async def test_a_slow_writer(server: RunningServer, judge: Any) -> None:
    """A sequence that comes step by step holds nobody up, and is answered like any other."""
    x = sequence(0, 6)
    async with talking(server.target) as slow, AsyncClient(server.target) as client:
        await slow.open()
        for start in range(len(x)):
            await slow.send(chunk(0, x[start : start + 1], last=start == len(x) - 1))
            async with talking(server.target) as other:
                await other.open()
                await other.whole(0, sequence(start, 3))
                await other.finish()
            np.testing.assert_array_equal(
                other.states(0), (await client.encode(sequence(start, 3))).states
            )
        await slow.finish()
    np.testing.assert_array_equal(slow.states(0), judge(x))
