"""What is wrong with one sequence of a stream is answered under its id, and the stream goes on."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.engine.staging import StagedBatch
from tests.rpc.streams.served import WIDTH, Array, held, metric, sequence, target
from tests.rpc.streams.talk import chunk, talking
from tests.support.engines import gated_server
from tests.support.servers import RunningServer, settings


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
