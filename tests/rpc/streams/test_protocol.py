"""A client that breaks the protocol of a stream is told the field, and its stream ends."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from bilstm.v1 import encoder_pb2 as pb
from tests.rpc.streams.served import OPEN, of, sequence
from tests.rpc.streams.talk import chunk, talking, violated_field
from tests.support.servers import RunningServer

# -- a broken protocol ---------------------------------------------------------------------------


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
    """A broken protocol ends the stream, and the field is named."""
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
    """Bytes that are no message are INVALID_ARGUMENT."""
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


# -- ends ----------------------------------------------------------------------------------------


async def test_too_many_chunks_in_a_message(server: RunningServer) -> None:
    """A message of more chunks than there may be ends the stream, and names the field."""
    async with talking(server.target) as talk:
        await talk.open()
        await talk.send(*(chunk(index) for index in range(1_025)))
        code, _, call = await talk.refusal()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert await violated_field(call) == "chunks"
