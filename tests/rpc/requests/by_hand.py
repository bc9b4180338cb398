"""Requests by hand, good and bad, and a server to send them to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import strategies as st

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

TIMEOUT_SECONDS = 30
MAX_SEQUENCE_TOKENS = 16
MAX_BATCH_TOKENS = 32
MAX_REQUEST_SEQUENCES = 8
MAX_MESSAGE_BYTES = 4096
ENCODE = "/bilstm.v1.EncoderService/Encode"


def tensor(*shape: int, data_type: int = pb.DATA_TYPE_FLOAT32, data: bytes | None = None) -> Any:
    """Zeros of that shape, or whatever `data` is."""
    if data is None:
        data = bytes(math.prod(shape) * tensors.dtype_of(data_type).itemsize)
    return pb.Tensor(data_type=pb.DataType.ValueType(data_type), shape=shape, data=data)


def tokens(*ids: int, data_type: int = pb.DATA_TYPE_INT64) -> pb.Tensor:
    return tensors.encode(np.array(ids, tensors.dtype_of(data_type)))


def floats(*sequences: pb.Tensor, **fields: Any) -> pb.EncodeRequest:
    return pb.EncodeRequest(model="small", sequences=sequences, **fields)


def ids(*sequences: pb.Tensor, **fields: Any) -> pb.EncodeRequest:
    return pb.EncodeRequest(model="tokens", sequences=sequences, **fields)


GOOD = tensor(3, 5)
STATE = tensor(4, 6)  # of the small model: 2 layers of 2 directions, hidden size 6


@dataclass(frozen=True)
class Wire:
    """A connection to a server that may be sent anything."""

    channel: grpc.Channel
    stub: encoder_pb2_grpc.EncoderServiceStub

    def still_serves(self) -> None:
        """A good request of each model gives what it gave before."""
        for request, shape in ((floats(GOOD), [3, 12]), (ids(tokens(1, 2)), [2, 12])):
            (encoding,) = self.stub.Encode(request, timeout=TIMEOUT_SECONDS).encodings
            assert list(encoding.states.shape) == shape

    def send(self, data: bytes) -> grpc.RpcError | None:
        """Send bytes as an Encode request; how it was refused, if it was."""
        call = self.channel.unary_unary(
            ENCODE, request_serializer=bytes, response_deserializer=pb.EncodeResponse.FromString
        )
        try:
            call(data, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            return error
        return None

    def refused(self, request: pb.EncodeRequest) -> Any:
        error = self.send(request.SerializeToString())
        assert error is not None, "was served"
        return error


def connect(target: str) -> Iterator[Wire]:
    with grpc.insecure_channel(target) as channel:
        yield Wire(channel, encoder_pb2_grpc.EncoderServiceStub(channel))


def violation(error: Any) -> tuple[str, str]:
    """Field and description of the one violation that a refusal names."""
    status = rpc_status.from_call(error)
    assert status is not None
    (detail,) = status.details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    (found,) = bad.field_violations
    return found.field, found.description


enums = st.one_of(st.integers(-1, 8), st.integers(-(2**31), 2**31 - 1))
sizes = st.one_of(st.integers(-1, 6), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)]))


@st.composite
def any_tensors(draw: st.DrawFn) -> pb.Tensor:
    """From nearly right to nonsense."""
    shape = draw(st.one_of(st.just([3, 5]), st.just([4, 6]), st.lists(sizes, max_size=10)))
    data_type = draw(enums)
    data = draw(st.binary(max_size=256))
    if data_type in range(1, 6) and all(0 <= size < 10 for size in shape) and draw(st.booleans()):
        count = math.prod(shape) * tensors.dtype_of(data_type).itemsize
        data = (data or b"\0") * (min(count, 10_000) // max(len(data), 1) + 1)
        data = data[:count]
    return pb.Tensor(data_type=data_type, shape=shape, data=data)  # type: ignore[arg-type]
