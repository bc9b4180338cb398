"""A stream spoken by hand, message by message, for tests of the server's side of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from tests.support.waiting import HANGS_AFTER_SECONDS

Array = NDArray[Any]


def chunk(sequence_id: int, steps: Array | None = None, last: bool = False) -> pb.SequenceChunk:
    return pb.SequenceChunk(
        id=sequence_id, steps=None if steps is None else tensors.encode(steps), last=last
    )


def states(chunks: list[pb.EncodingChunk]) -> Array:
    """A sequence's states, all its chunks joined; they must follow each other without a gap."""
    parts = [tensors.decode(c.encoding.states) for c in chunks]
    firsts = [c.first_step for c in chunks]
    assert firsts == [sum(map(len, parts[:i])) for i in range(len(parts))]
    return np.concatenate(parts)


class Talk:
    """One call. `answers` are the chunks that came, by their sequence's id; `order` is that in
    which sequences were done."""

    def __init__(self, call: Any):
        self.call = call
        self.answers: dict[int, list[pb.EncodingChunk]] = {}
        self.order: list[int] = []

    async def open(self, **options: Any) -> pb.StreamOpened:
        await self.send_message(pb.EncodeStreamRequest(options=pb.StreamOptions(**options)))
        reply = await self._read()
        assert reply.HasField("opened")
        opened: pb.StreamOpened = reply.opened
        return opened

    async def send_message(self, request: pb.EncodeStreamRequest) -> None:
        await asyncio.wait_for(self.call.write(request), HANGS_AFTER_SECONDS)

    async def send(self, *chunks: pb.SequenceChunk) -> None:
        await self.send_message(pb.EncodeStreamRequest(chunks=chunks))

    async def whole(self, sequence_id: int, steps: Array) -> None:
        await self.send(chunk(sequence_id, steps, last=True))

    async def done(self) -> None:
        await self.call.done_writing()

    async def receive(self) -> bool:
        """Take one message; False if the stream has ended, as it should."""
        reply = await self._read()
        if reply is grpc.aio.EOF:
            assert await self.call.code() is grpc.StatusCode.OK, await self.call.details()
            return False
        for part in reply.chunks:
            assert part.id not in self.order, "a result after the last chunk"
            self.answers.setdefault(part.id, []).append(part)
            if part.last:
                self.order.append(part.id)
        return True

    async def until_answered(self, *ids: int) -> None:
        while not set(ids) <= set(self.order):
            assert await self.receive(), f"{self.order} were answered, not {ids}"

    async def finish(self) -> None:
        """Send no more, and take all that comes."""
        await self.done()
        while await self.receive():
            pass

    async def refusal(self) -> tuple[grpc.StatusCode, str, Any]:
        """Take what comes until the stream ends with an error: its code, message and details."""
        try:
            while await self._read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await self.call.code(), await self.call.details(), self.call

    def states(self, sequence_id: int) -> Array:
        return states(self.answers[sequence_id])

    def error(self, sequence_id: int) -> pb.SequenceError:
        (only,) = (c for c in self.answers[sequence_id] if c.HasField("error"))
        assert only.last
        return only.error

    async def _read(self) -> Any:
        return await asyncio.wait_for(self.call.read(), HANGS_AFTER_SECONDS)


@asynccontextmanager
async def talking(target: str) -> AsyncIterator[Talk]:
    """A call on a channel of its own, cancelled at the end unless it has ended."""
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        call = encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream()
        try:
            yield Talk(call)
        finally:
            call.cancel()


async def violated_field(call: Any) -> str:
    """The field that an INVALID_ARGUMENT names."""
    status = await rpc_status.aio.from_call(call)
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    field: str = bad.field_violations[0].field
    return field
