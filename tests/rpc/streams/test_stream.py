"""EncodeStream, message by message, on a real server: results, order, refusals, bounds, ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_client import AsyncClient
from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.model.config import Output
from tests.rpc.streams.talk import Talk, chunk, talking, violated_field
from tests.support.engines import Gated, first_batcher, gated_server, held_server, until
from tests.support.lstms import examples
from tests.support.servers import RunningServer, settings

Array = NDArray[Any]
WIDTH = 5
LONG = 5_000  # steps: more than what is computed whole
ALL = ("STATES", "FINAL", "MEAN", "MAX", "LOGITS", "STATE")


def sequence(seed: int, steps: int, dtype: str = "<f4") -> Array:
    return np.random.default_rng(seed).standard_normal((steps, WIDTH)).astype(dtype)


def target(app: App) -> str:
    return f"127.0.0.1:{app.port}"


@pytest.fixture(scope="module")
def judge(model_folder: Path) -> Callable[[Array], Array]:
    """The states of a sequence that is computed alone and whole."""
    engine = Engine.load(model_folder, "cpu", "float32", "auto")

    def states_of(x: Array) -> Array:
        (output,) = engine.run([SequenceInput(x, frozenset({Output.STATES}))])
        return output.arrays[Output.STATES]

    return states_of


def metric(app: App, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(name, labels) or 0.0


def held(app: App) -> float:
    return metric(app, "bilstm_stream_bytes")


# -- results ------------------------------------------------------------------------------------


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
            outputs=[name.lower() for name in ALL],  # type: ignore[misc]
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


# -- what concerns one sequence -----------------------------------------------------------------


def ids_of(*values: int) -> Array:
    return np.array(values, "<i8")


BAD: dict[str, tuple[str, list[pb.SequenceChunk], str]] = {
    "another width": ("small", [chunk(1, np.zeros((3, 4), "<f4"))], "steps.shape"),
    "another width later": (
        "small",
        [chunk(1, sequence(0, 3)), chunk(1, np.zeros((3, 6), "<f4"))],
        "steps.shape",
    ),
    "another type later": (
        "small",
        [chunk(1, sequence(0, 3)), chunk(1, sequence(0, 3, "<f2"))],
        "steps.data_type",
    ),
    "no floats": ("small", [chunk(1, np.zeros((3, WIDTH), "<i4"))], "steps.data_type"),
    "not enough bytes": (
        "small",
        [
            pb.SequenceChunk(
                id=1, steps=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[2, WIDTH], data=b"abc")
            )
        ],
        "steps.data",
    ),
    "no steps": ("small", [chunk(1, sequence(0, 0))], "steps"),
    "nothing": ("small", [chunk(1)], "steps"),
    "a negative length": (
        "small",
        [
            pb.SequenceChunk(
                id=1, steps=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[-1, WIDTH])
            )
        ],
        "steps.shape",
    ),
    "an id beyond the embedding": ("tokens", [chunk(1, ids_of(3, 20))], "steps.data"),
    "a state's shape": (
        "small",
        [
            pb.SequenceChunk(
                id=1,
                steps=tensors.encode(sequence(0, 2)),
                initial_state=pb.State(hidden=tensors.encode(np.zeros((1, 6), "<f4"))),
            )
        ],
        "initial_state.hidden.shape",
    ),
    "a state too late": (
        "small",
        [
            chunk(1, sequence(0, 2)),
            pb.SequenceChunk(id=1, initial_state=pb.State(hidden=tensors.encode(sequence(0, 1)))),
        ],
        "initial_state",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_sequence(server: RunningServer, name: str) -> None:
    """It is answered under its id, with code and field; the rest of it is ignored, and the stream
    goes on."""
    model, chunks, field = BAD[name]
    good = ids_of(1, 2) if model == "tokens" else sequence(0, 4)
    async with talking(server.target) as talk:
        await talk.open(model=model)
        await talk.send(chunk(0, good[:1]))
        await talk.send(*chunks)
        if name not in ("no steps", "nothing"):
            await talk.until_answered(1)
        await talk.send(chunk(1, good, last=True))
        await talk.send(chunk(0, good[1:], last=True))
        await talk.whole(2, good)
        await talk.finish()
    if name not in ("no steps", "nothing"):
        error = talk.error(1)
        assert grpc.StatusCode.INVALID_ARGUMENT.value[0] == error.code
        assert error.field == field
        assert error.message == f"{error.field}: {error.expected}"
    np.testing.assert_array_equal(talk.states(0), talk.states(2))


@pytest.mark.parametrize("first", [None, sequence(0, 0)])
async def test_a_sequence_of_no_steps(server: RunningServer, first: Array | None) -> None:
    """Chunks of no steps are no error, but a sequence must have one step at the end."""
    async with talking(server.target) as talk:
        await talk.open()
        await talk.send(chunk(0, first), chunk(0, sequence(0, 2)), chunk(0, last=True))
        await talk.send(chunk(1, first), chunk(1, first, last=True))
        await talk.finish()
    assert talk.states(0).shape == (2, 12)
    assert talk.error(1).field == "steps"


async def test_an_unfinished_sequence(server: RunningServer) -> None:
    """A client that ends its side in the middle of a sequence is told so, for that one."""
    async with talking(server.target) as talk:
        await talk.open()
        await talk.whole(0, sequence(0, 2))
        await talk.send(chunk(1, sequence(0, 2)))
        await talk.finish()
    assert talk.states(0).shape == (2, 12)
    assert talk.error(1).field == "last"


async def test_a_sequence_that_is_too_long(model_folder: Path) -> None:
    """One that with its result exceeds what a stream may hold is refused as soon as that is known,
    and what it held is free again."""
    room = settings(model=[("small", model_folder)], max_stream_bytes=100_000)
    async with gated_server(room) as (app, gated), talking(target(app)) as talk:
        gated.open()
        await talk.open()
        for _ in range(4):
            await talk.send(chunk(0, sequence(0, 400)))
        await talk.until_answered(0)
        assert talk.error(0).field == "steps"
        assert "100000 bytes" in talk.error(0).message
        assert held(app) == 0
        await talk.whole(1, sequence(0, 400))
        await talk.until_answered(1)


async def test_a_sequence_that_fails_alone(model_folder: Path) -> None:
    """What the engine can't compute is INTERNAL for that sequence, with an id that the log has."""

    def fault(staged: StagedBatch) -> None:
        if any(s.tokens == 13 for s in staged.sequences):
            raise ArithmeticError("thirteen")

    async with gated_server(settings(model=[("small", model_folder)])) as (app, gated):
        gated.engines["small"].fault = fault
        gated.open()
        async with talking(target(app)) as talk:
            await talk.open()
            for index, steps in enumerate((3, 13, 5)):
                await talk.whole(index, sequence(0, steps))
            await talk.finish()
        assert metric(app, "bilstm_dropped_total", model="small", reason="failed") == 1
    error = talk.error(1)
    assert error.code == grpc.StatusCode.INTERNAL.value[0]
    assert error.error_id
    assert error.error_id in error.message
    assert "thirteen" not in error.message
    assert talk.order == [0, 1, 2]


# -- a broken protocol --------------------------------------------------------------------------

OPEN = pb.EncodeStreamRequest(options=pb.StreamOptions())


def of(*chunks: pb.SequenceChunk) -> pb.EncodeStreamRequest:
    return pb.EncodeStreamRequest(chunks=chunks)


WHOLE = chunk(7, sequence(0, 2), last=True)
BROKEN: dict[str, tuple[list[pb.EncodeStreamRequest], str]] = {
    "no options": ([of(WHOLE)], "options"),
    "chunks with the options": (
        [pb.EncodeStreamRequest(options=pb.StreamOptions(), chunks=[WHOLE])],
        "chunks",
    ),
    "options twice": ([OPEN, OPEN], "options"),
    "an id twice": ([OPEN, of(WHOLE), of(WHOLE)], "chunks[0].id"),
    "a chunk after the end": ([OPEN, of(WHOLE, chunk(7, sequence(0, 1)))], "chunks[1].id"),
    "a lower id": ([OPEN, of(WHOLE, chunk(6, sequence(0, 1)))], "chunks[1].id"),
    "no such output": (
        [pb.EncodeStreamRequest(options=pb.StreamOptions(outputs=[99]))],  # type: ignore[list-item]
        "options.outputs[0]",
    ),
    "no such type": (
        [pb.EncodeStreamRequest(options=pb.StreamOptions(output_data_type=pb.DATA_TYPE_INT32))],
        "options.output_data_type",
    ),
    "a live stream's outputs": (
        [
            pb.EncodeStreamRequest(
                options=pb.StreamOptions(
                    live=pb.Live(block_steps=1), outputs=[pb.OUTPUT_STATES, pb.OUTPUT_MEAN]
                )
            )
        ],
        "options.outputs",
    ),
    "a live stream without blocks": (
        [pb.EncodeStreamRequest(options=pb.StreamOptions(live=pb.Live()))],
        "options.live.block_steps",
    ),
    "a negative look-ahead": (
        [
            pb.EncodeStreamRequest(
                options=pb.StreamOptions(live=pb.Live(block_steps=1, lookahead_steps=-1))
            )
        ],
        "options.live.lookahead_steps",
    ),
    "endless blocks": (
        [pb.EncodeStreamRequest(options=pb.StreamOptions(live=pb.Live(block_steps=2**30)))],
        "options.live",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_protocol(server: RunningServer, name: str) -> None:
    """It ends the stream, and names the field."""
    requests, field = BROKEN[name]
    async with talking(server.target) as talk:
        for request in requests:
            await talk.send_message(request)
        code, _, call = await talk.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert await violated_field(call) == field


async def test_an_unknown_model(server: RunningServer) -> None:
    """NOT_FOUND, when the stream opens."""
    async with talking(server.target) as talk:
        await talk.send_message(pb.EncodeStreamRequest(options=pb.StreamOptions(model="none")))
        code, message, _ = await talk.refusal()
    assert code is grpc.StatusCode.NOT_FOUND
    assert "none" in message


async def test_bytes_that_are_no_message(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        call: Any = channel.stream_stream("/bilstm.v1.EncoderService/EncodeStream")()
        await call.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.read()
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_of_nothing(server: RunningServer) -> None:
    """Neither opened nor used, a stream ends well."""
    async with talking(server.target) as talk:
        await talk.finish()
    async with talking(server.target) as talk:
        await talk.open()
        await talk.finish()
    assert talk.answers == {}


# -- bounds -------------------------------------------------------------------------------------

STEP_BYTES = 4 * 2 * 12  # held of each step: what its two layers put out is more than it and one


@asynccontextmanager
async def bounded(folder: Path, streams: int = 1, **more: Any) -> AsyncIterator[tuple[App, Gated]]:
    """A server that lets a stream hold 200 steps, and all together so many times that."""
    size = 200 * STEP_BYTES
    room = settings(
        model=[("small", folder)], max_stream_bytes=size, max_streams_bytes=streams * size, **more
    )
    async with gated_server(room) as (app, gated):
        gated.open()
        yield app, gated


async def test_a_client_that_does_not_read(model_folder: Path, judge: Any) -> None:
    """The server holds no more than it may, reads no further, and forgets nothing: once the client
    reads, all results come."""
    x = sequence(0, 100)
    count = 4_000  # 8 MB, of which gRPC's own buffers hold some
    async with bounded(model_folder) as (app, _), talking(target(app)) as talk:
        await talk.open()
        most = 0.0

        async def write() -> None:
            for index in range(count):
                await talk.call.write(of(chunk(index, x, last=True)))
            await talk.done()

        writing = asyncio.create_task(write())
        await until(lambda: held(app) == 200 * STEP_BYTES)
        for _ in range(2_000):
            await asyncio.sleep(0)
            most = max(most, held(app))
        assert not writing.done()
        assert most <= 200 * STEP_BYTES
        async with AsyncClient(target(app)) as client:  # which is served all the same
            np.testing.assert_array_equal((await client.encode(x)).states, judge(x))
        while await talk.receive():
            most = max(most, held(app))
        await writing
        assert most <= 200 * STEP_BYTES
        assert held(app) == 0
    assert talk.order == list(range(count))
    assert all(np.array_equal(talk.states(index), judge(x)) for index in range(0, count, 500))


async def test_too_much_half_sent(model_folder: Path) -> None:
    """A stream full of half-sent sequences refuses the next part, and finishes the others."""
    async with bounded(model_folder) as (app, _), talking(target(app)) as talk:
        await talk.open()
        await talk.send(chunk(0, sequence(0, 150)))
        await talk.send(chunk(1, sequence(0, 30)))
        await talk.send(chunk(2, sequence(0, 60)))
        await talk.until_answered(2)
        error = talk.error(2)
        assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert "half sent" in error.message
        await talk.send(chunk(2, sequence(0, 60), last=True))
        await talk.send(chunk(0, sequence(0, 10), last=True), chunk(1, last=True))
        await talk.whole(3, sequence(0, 190))
        await talk.finish()
        assert held(app) == 0
    assert talk.order == [2, 0, 1, 3]


async def test_too_many_half_sent(model_folder: Path) -> None:
    """The same by number; each sequence that is answered makes room for another one."""
    async with (
        bounded(model_folder, max_stream_sequences=3) as (app, _),
        talking(target(app)) as talk,
    ):
        await talk.open()
        for index in range(4):
            await talk.send(chunk(index, sequence(0, 1)))
        await talk.until_answered(3)
        assert talk.error(3).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        await talk.send(*(chunk(index, last=True) for index in range(4)))
        for index in range(4, 40):
            await talk.whole(index, sequence(0, 1))
        await talk.finish()
    assert sorted(talk.order) == list(range(40))


async def test_refused_sequences_that_go_on(model_folder: Path) -> None:
    """They are remembered until their end; too many of them end the stream."""
    async with (
        bounded(model_folder, max_stream_sequences=3) as (app, _),
        talking(target(app)) as talk,
    ):
        await talk.open()
        for index in range(4):
            await talk.send(chunk(index, np.zeros((1, 1), "<f4")))
        code, _, call = await talk.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert await violated_field(call) == "chunks"


async def test_streams_that_wait_for_each_other(model_folder: Path, judge: Any) -> None:
    """Streams whose half-sent sequences fill all the memory there is still finish, one after the
    other."""
    count = 6
    async with bounded(model_folder, streams=2) as (app, _), AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(target(app))) for _ in range(count)]
        for talk in talks:
            await talk.open()
        for start in range(0, 190, 10):  # in all, three times what there is room for
            for talk in talks:
                await talk.send(chunk(0, sequence(0, 190)[start : start + 10], last=start == 180))
        await asyncio.gather(*(talk.finish() for talk in talks))
        assert held(app) == 0
    for talk in talks:
        np.testing.assert_array_equal(talk.states(0), judge(sequence(0, 190)))


async def test_a_stalled_stream_harms_no_other(model_folder: Path) -> None:
    """One that fills its own bound and reads nothing leaves the others theirs."""
    async with (
        bounded(model_folder, streams=3) as (app, _),
        talking(target(app)) as stalled,
        talking(target(app)) as other,
    ):
        await stalled.open()
        await stalled.send(chunk(0, sequence(0, 199)))
        await until(lambda: held(app) > 0)
        await other.open()
        for index in range(50):
            await other.whole(index, sequence(0, 150))
        await other.finish()
    assert other.order == list(range(50))


async def test_one_stream_more_than_there_may_be(model_folder: Path) -> None:
    """It is refused, and told when to come again; once one has ended there is room."""
    async with bounded(model_folder, max_streams=2) as (app, _), AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(target(app))) for _ in range(2)]
        for talk in talks:
            await talk.open()
        assert metric(app, "bilstm_streams") == 2
        async with talking(target(app)) as third:
            code, message, call = await third.refusal()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "2 streams" in message
            status = await rpc_status.aio.from_call(call)
        assert status is not None
        assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        assert metric(app, "bilstm_dropped_total", model="", reason="overloaded") == 1
        await talks[0].finish()
        async with talking(target(app)) as another:
            await another.open()
            await another.whole(0, sequence(0, 1))
            await another.finish()
        assert another.order == [0]


# -- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [10, LONG])
async def test_a_client_that_leaves(model_folder: Path, steps: int) -> None:
    """What it has half sent, and what is being computed for it, is dropped and its memory free."""
    async with held_server(settings(model=[("small", model_folder)])) as (app, slices):
        slices.first.gate.clear()
        async with talking(target(app)) as talk:
            await talk.open()
            await talk.whole(0, sequence(0, steps))
            await talk.send(chunk(1, sequence(0, 10)))
            await until(lambda: held(app) == (steps + 10) * STEP_BYTES)
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        slices.open()
        assert metric(app, "bilstm_dropped_total", model="small", reason="cancelled") == 2


async def test_nothing_stays_of_clients_that_leave(model_folder: Path) -> None:
    """At whatever moment a client leaves, or its deadline passes, nothing is held for it then."""
    rng = np.random.default_rng(0)
    async with gated_server(settings(model=[("small", model_folder)])) as (app, gated):
        gated.open()
        async with grpc.aio.insecure_channel(target(app)) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)

            async def leave(number: int) -> None:
                timeout = None if number % 3 else float(rng.uniform(0.001, 0.05))
                call = stub.EncodeStream(timeout=timeout)
                requests = [OPEN, *(of(chunk(i, sequence(i, 300), last=True)) for i in range(9))]
                requests += [of(chunk(10, sequence(0, 9))), OPEN][: number % 3]
                with suppress(Exception):  # of many kinds, where the call is over already
                    for request in requests[: rng.integers(1, len(requests) + 1)]:
                        await call.write(request)
                    replies = 1  # that come whatever else was sent
                    if number % 2:
                        await call.done_writing()
                        replies = 3
                    for _ in range(rng.integers(0, replies + 1)):
                        await call.read()
                call.cancel()

            for _ in range(20):
                await asyncio.gather(*(leave(number) for number in range(12)))
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        assert metric(app, "bilstm_queue_sequences", model="small") == 0


async def test_errors_that_are_not_read(model_folder: Path) -> None:
    """A client that reads none of its refusals is read no further."""
    async with (
        bounded(model_folder, max_stream_sequences=10) as (app, _),
        talking(target(app)) as talk,
    ):
        await talk.open()
        bad = chunk(0, np.zeros((1, 1), "<f4"), last=True)

        async def write() -> None:
            for index in range(300_000):
                bad.id = index
                await talk.call.write(of(bad))

        writing = asyncio.create_task(write())
        refused = {"model": "small", "reason": "invalid"}
        count = -1.0
        while count != (count := metric(app, "bilstm_dropped_total", **refused)):
            for _ in range(2_000):
                await asyncio.sleep(0)
        assert not writing.done()
        writing.cancel()
        await asyncio.wait({writing})


async def test_too_many_chunks_in_a_message(server: RunningServer) -> None:
    async with talking(server.target) as talk:
        await talk.open()
        await talk.send(*(chunk(index) for index in range(1_025)))
        code, _, call = await talk.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert await violated_field(call) == "chunks"


async def test_drain_of_a_silent_call(model_folder: Path) -> None:
    """One that has not even opened its stream does not hold up a drain."""
    async with (
        gated_server(settings(model=[("small", model_folder)])) as (app, _),
        talking(target(app)) as talk,
    ):
        await until(lambda: metric(app, "bilstm_streams") == 1)
        draining = asyncio.create_task(app.drain())
        assert (await talk.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert await draining


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


async def test_a_drain_that_cuts_a_stream_off(model_folder: Path) -> None:
    """It says so, and nothing stays held."""
    brief = settings(model=[("small", model_folder)], drain_timeout_seconds=0.2)
    async with held_server(brief) as (app, slices), talking(target(app)) as talk:
        await talk.open()
        await talk.whole(0, sequence(0, LONG))
        await until(lambda: held(app) > 0)
        assert not await app.drain()
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        slices.first.held = False


HALF_SENT = """
import sys
import numpy as np
from bilstm_client import Client

def chunks():
    yield np.zeros((10, 5))
    print("sent", flush=True)
    yield np.zeros((10, 5))
    sys.stdin.read()

with Client(sys.argv[1]) as client:
    list(client.encode_stream([chunks()]))
"""


async def test_a_client_that_is_killed(model_folder: Path) -> None:
    """The same of one that ends in the middle of a sequence without a word."""
    async with gated_server(settings(model=[("small", model_folder)])) as (app, _):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HALF_SENT, target(app)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        await process.stdout.readline()
        await until(lambda: held(app) == 20 * STEP_BYTES)
        process.kill()
        await until(lambda: metric(app, "bilstm_streams") == 0)
        assert held(app) == 0
        await process.wait()


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


async def test_drain(model_folder: Path, judge: Any) -> None:
    """What was complete when the drain began is answered; then the stream ends as UNAVAILABLE."""
    async with (
        gated_server(settings(model=[("small", model_folder)])) as (app, gated),
        talking(target(app)) as talk,
        talking(target(app)) as idle,
    ):
        await idle.open()
        await talk.open()
        await talk.whole(0, sequence(0, 10))
        await gated.engines["small"].arrival()
        await talk.whole(1, sequence(0, 3 * LONG))
        await talk.send(chunk(2, sequence(0, 10)))
        await until(lambda: held(app) == (3 * LONG + 20) * STEP_BYTES)
        draining = asyncio.create_task(app.drain())
        await until(lambda: metric(app, "bilstm_streams") == 1)  # the idle one has ended
        gated.open()
        await talk.until_answered(0, 1)
        code, _, _ = await talk.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert (await idle.refusal())[0] is grpc.StatusCode.UNAVAILABLE
        assert await draining
    np.testing.assert_array_equal(talk.states(0), judge(sequence(0, 10)))
    np.testing.assert_array_equal(talk.states(1), judge(sequence(0, 3 * LONG)))
