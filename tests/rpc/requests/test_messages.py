"""Bytes that are no message, and messages and replies that are too large, are refused before they
cost much; what is allowed is served.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from bilstm import wire as wire_parts
from bilstm.v1 import encoder_pb2 as pb
from tests.rpc.requests.by_hand import (
    MAX_MESSAGE_BYTES,
    STATE,
    TIMEOUT_SECONDS,
    Wire,
    floats,
    tensor,
    violation,
)


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 64, b"\x00", b"\x1a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"GET / HTTP/1.1"],
    ids=["ones", "tag 0", "length past the end", "name not UTF-8", "another protocol"],
)
def test_garbage_instead_of_a_message(wire: Wire, data: bytes) -> None:
    """Bytes that are no message are INVALID_ARGUMENT, of the request as a whole."""
    error: Any = wire.send(data)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    field, description = violation(error)
    assert field == ""
    assert error.details() == description
    wire.still_serves()


MANY = 300_000
UNFOLDING: dict[str, tuple[str, bytes]] = {
    "sequences": ("sequences", b"\x1a\x00" * MANY),
    "states": ("initial_states", b"\x32\x00" * MANY),
    "outputs": ("outputs", b"\x20\x01" * MANY),
    "packed outputs": ("outputs", b"".join(wire_parts.delimited(4, [b"\x01" * 2 * MANY]))),
    "shape": ("sequences[0].shape", b"".join(wire_parts.delimited(3, [b"\x10\x01" * MANY]))),
    "tensors": ("", b"\x32\x00" + b"".join(wire_parts.delimited(6, [b"\x0a\x00" * MANY]))),
    "names": ("", b"\x0a\x00" * MANY),
    "unknown fields": ("", b"\xf8\x01\x01" * MANY),
}


@pytest.mark.parametrize("name", UNFOLDING)
def test_bytes_that_would_unfold_are_refused_as_bytes(wire: Wire, name: str) -> None:
    """Very many tiny fields, of whatever kind, are refused before they are unfolded."""
    named, data = UNFOLDING[name]
    error: Any = wire.send(data)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    field, expected = violation(error)
    assert field == named
    assert "more" in expected
    wire.still_serves()


def test_large_good_requests_are_not_taken_for_unfolding(wire: Wire) -> None:
    """As many sequences with states as may be, in a message of megabytes, are served."""
    state = pb.State(hidden=STATE, cell=STATE)
    request = floats(
        *[tensor(16, 5)] * 1024, initial_states=[state] * 1024, outputs=[pb.OUTPUT_FINAL]
    )
    assert len(wire.stub.Encode(request, timeout=TIMEOUT_SECONDS).encodings) == 1024


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("method", ["Encode", "EncodeStream"])
def test_compressed_messages_are_refused(wire: Wire, method: str, kind: grpc.Compression) -> None:
    """A message is as large as it was on the wire: 15 kB can't become 15 MB of work."""
    send: Any = wire.channel.stream_stream(f"/bilstm.v1.EncoderService/{method}")
    with pytest.raises(grpc.RpcError) as refusal:
        next(send(iter([bytes(10_000)]), timeout=TIMEOUT_SECONDS, compression=kind))
    error: Any = refusal.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error.details()
    assert "is disabled" in error.details()
    wire.still_serves()


@pytest.mark.parametrize("size", [64 * 1024 + 1, 10_000_000])
def test_large_messages_of_other_methods_are_refused(wire: Wire, size: int) -> None:
    """A method whose requests are small does not decode a large one."""
    send: Any = wire.channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.RpcError) as refusal:
        send(b"\xfa\x01" + b"\x00" * (size - 2), timeout=TIMEOUT_SECONDS)
    error: Any = refusal.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    wire.still_serves()


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_garbage_instead_of_a_health_check(wire: Wire, method: str) -> None:
    """Other services' methods, streams too, refuse what is no message as Encode does."""
    send: Any = wire.channel.unary_stream(f"/grpc.health.v1.Health/{method}")
    with pytest.raises(grpc.RpcError) as refusal:
        next(send(b"\xff", timeout=TIMEOUT_SECONDS))
    error: Any = refusal.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    wire.still_serves()


def test_no_bytes_at_all(wire: Wire) -> None:
    """An empty message is an empty request to the default model."""
    error: Any = wire.send(b"")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation(error)[0] == "sequences"
    wire.still_serves()


def test_reply_too_large_is_refused_before_it_is_computed(strict: Wire) -> None:
    """A small request whose reply would be too large is refused; in a shorter type it is
    served."""
    large = floats(*[tensor(4, 5, data_type=pb.DATA_TYPE_FLOAT16)] * 8)
    large.outputs.extend(
        [
            pb.OUTPUT_STATES,
            pb.OUTPUT_STATE,
            pb.OUTPUT_MEAN,
            pb.OUTPUT_MAX,
            pb.OUTPUT_FINAL,
            pb.OUTPUT_LOGITS,
        ]
    )
    error = strict.refused(large)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    field, description = violation(error)
    assert field == "sequences"
    # 32 steps of 12, and 8 of 48 state elements, 36 pooled and 3 logits, 4 bytes each.
    assert str((32 * 12 + 8 * (48 + 36 + 3)) * 4) in description
    large.output_data_type = pb.DATA_TYPE_BFLOAT16
    assert len(strict.stub.Encode(large, timeout=TIMEOUT_SECONDS).encodings) == 8
    strict.still_serves()


def test_message_too_large_is_refused_by_its_size(strict: Wire) -> None:
    """A message of more than max_message_bytes is RESOURCE_EXHAUSTED, and the server goes on."""
    error = strict.refused(floats(tensor(16, 5, data=bytes(MAX_MESSAGE_BYTES))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    strict.still_serves()


def test_limits_themselves_are_allowed(strict: Wire) -> None:
    """A request of exactly as many sequences and tokens as allowed is served."""
    request = floats(*[tensor(4, 5)] * 8, outputs=[pb.OUTPUT_FINAL])
    assert len(strict.stub.Encode(request, timeout=TIMEOUT_SECONDS).encodings) == 8
    assert strict.stub.Encode(floats(tensor(16, 5)), timeout=TIMEOUT_SECONDS).encodings
