"""Bad input over the wire: refused, with the field at fault by name, and nothing else disturbed.

Owns the validation of requests and the tensor codec. What good input gives is not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from google.protobuf import empty_pb2, unknown_fields
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from bilstm import tensors
from bilstm import wire as wire_parts
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from tests.support.servers import RunningServer, settings

TIMEOUT_SECONDS = 30
MAX_SEQUENCE_TOKENS = 16
MAX_BATCH_TOKENS = 32
MAX_REQUEST_SEQUENCES = 8
MAX_MESSAGE_BYTES = 4096
ENCODE = "/bilstm.v1.EncoderService/Encode"

Make = Callable[[], pb.EncodeRequest]


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


def states(*states: pb.State, sequences: int = 1) -> pb.EncodeRequest:
    return floats(*[GOOD] * sequences, initial_states=states)


GOOD = tensor(3, 5)
STATE = tensor(4, 6)  # of the small model: 2 layers of 2 directions, hidden size 6


@dataclass(frozen=True)
class Bad:
    """A bad request, and the field that the refusal names."""

    name: str
    field: str
    request: pb.EncodeRequest


BAD = [
    Bad("no sequence", "sequences", floats()),
    Bad("rank 1", "sequences[0].shape", floats(tensor(5))),
    Bad("rank 3", "sequences[0].shape", floats(tensor(1, 3, 5))),
    Bad("rank 0", "sequences[0].shape", floats(tensor(data=bytes(4)))),
    Bad("wrong width", "sequences[0].shape", floats(tensor(3, 4))),
    Bad("wrong width later", "sequences[2].shape", floats(GOOD, GOOD, tensor(3, 6), GOOD)),
    Bad("transposed", "sequences[0].shape", floats(tensor(5, 3))),
    Bad("bytes too few", "sequences[0].data", floats(tensor(3, 5, data=bytes(59)))),
    Bad("bytes too many", "sequences[0].data", floats(tensor(3, 5, data=bytes(61)))),
    Bad("no bytes", "sequences[1].data", floats(GOOD, tensor(3, 5, data=b""))),
    Bad(
        "bytes of another type",
        "sequences[0].data",
        floats(tensor(3, 5, data=bytes(60), data_type=pb.DATA_TYPE_FLOAT16)),
    ),
    Bad("negative steps", "sequences[0].shape", floats(tensor(-3, 5, data=bytes(60)))),
    Bad("negative width", "sequences[0].shape", floats(tensor(3, -5, data=bytes(60)))),
    Bad("both negative", "sequences[0].shape", floats(tensor(-3, -5, data=bytes(60)))),
    Bad("steps overflow", "sequences[0].shape", floats(tensor(2**62, 5, data=bytes(60)))),
    Bad("width overflows", "sequences[0].shape", floats(tensor(3, 2**62, data=bytes(60)))),
    Bad("product wraps to 0", "sequences[0].shape", floats(tensor(2**62, 2**62, data=b""))),
    Bad("least int64", "sequences[0].shape", floats(tensor(-(2**63), 5, data=b""))),
    Bad("300 sizes", "sequences[0].shape", floats(tensor(*[1] * 300, data=bytes(4)))),
    Bad(
        "300 sizes of ids",
        "sequences[0].shape",
        ids(tensor(*[1] * 300, data_type=pb.DATA_TYPE_INT64)),
    ),
    Bad(
        "unknown type",
        "sequences[0].data_type",
        floats(pb.Tensor(data_type=99, shape=[3, 5], data=bytes(60))),  # type: ignore[arg-type]
    ),
    Bad(
        "negative type",
        "sequences[0].data_type",
        floats(pb.Tensor(data_type=-1, shape=[3, 5], data=bytes(60))),  # type: ignore[arg-type]
    ),
    Bad(
        "unspecified type",
        "sequences[0].data_type",
        floats(pb.Tensor(shape=[3, 5], data=bytes(60))),
    ),
    Bad("empty tensor", "sequences[0].data_type", floats(pb.Tensor())),
    Bad(
        "ids for floats",
        "sequences[0].data_type",
        floats(tensor(3, 5, data_type=pb.DATA_TYPE_INT32)),
    ),
    Bad("floats for ids", "sequences[0].data_type", ids(tensor(3))),
    Bad("ids of rank 2", "sequences[0].shape", ids(tensor(3, 1, data_type=pb.DATA_TYPE_INT64))),
    Bad("no step", "sequences[0].shape", floats(tensor(0, 5))),
    Bad("no id", "sequences[0].shape", ids(tokens())),
    Bad("negative id", "sequences[0].data", ids(tokens(3, -1))),
    Bad("negative int32", "sequences[0].data", ids(tokens(-1, 3, data_type=pb.DATA_TYPE_INT32))),
    Bad("id too large", "sequences[1].data", ids(tokens(19), tokens(0, 20, 3))),
    Bad("int32 too large", "sequences[0].data", ids(tokens(20, data_type=pb.DATA_TYPE_INT32))),
    Bad("id of 2**32", "sequences[0].data", ids(tokens(2**32))),
    Bad("id of 2**63 - 1", "sequences[0].data", ids(tokens(2**63 - 1))),
    Bad("sequence too long", "sequences[1].shape", floats(GOOD, tensor(17, 5))),
    Bad("too many sequences", "sequences", floats(*[tensor(1, 5)] * 9)),
    Bad("too many tokens in all", "sequences", floats(*[tensor(11, 5)] * 3)),
    Bad("too many outputs", "outputs", floats(GOOD, outputs=[pb.OUTPUT_MEAN] * 7)),
    Bad("unknown output", "outputs[1]", floats(GOOD, outputs=[pb.OUTPUT_MEAN, 99])),
    Bad("negative output", "outputs[0]", floats(GOOD, outputs=[-7])),
    Bad("unspecified output", "outputs[0]", floats(GOOD, outputs=[pb.OUTPUT_UNSPECIFIED])),
    Bad("logits without head", "outputs[0]", ids(tokens(1), outputs=[pb.OUTPUT_LOGITS])),
    Bad(
        "integers for output type",
        "output_data_type",
        floats(GOOD, output_data_type=pb.DATA_TYPE_INT64),
    ),
    Bad("unknown output type", "output_data_type", floats(GOOD, output_data_type=99)),
    Bad("one state for two", "initial_states", states(pb.State(), sequences=2)),
    Bad("two states for one", "initial_states", states(pb.State(), pb.State())),
    Bad(
        "states of an empty request",
        "sequences",
        floats(initial_states=[pb.State(hidden=STATE, cell=STATE)]),
    ),
    Bad("empty state", "initial_states[0].hidden.data_type", states(pb.State())),
    Bad("no hidden", "initial_states[0].hidden.data_type", states(pb.State(cell=STATE))),
    Bad("no cell", "initial_states[0].cell.data_type", states(pb.State(hidden=STATE))),
    Bad(
        "state too narrow",
        "initial_states[1].hidden.shape",
        states(
            pb.State(hidden=STATE, cell=STATE),
            pb.State(hidden=tensor(4, 5), cell=STATE),
            sequences=2,
        ),
    ),
    Bad(
        "state of too few rows",
        "initial_states[0].cell.shape",
        states(pb.State(hidden=STATE, cell=tensor(2, 6))),
    ),
    Bad(
        "flat state",
        "initial_states[0].hidden.shape",
        states(pb.State(hidden=tensor(24), cell=STATE)),
    ),
    Bad(
        "state of integers",
        "initial_states[0].cell.data_type",
        states(pb.State(hidden=STATE, cell=tensor(4, 6, data_type=pb.DATA_TYPE_INT32))),
    ),
    Bad(
        "state with bytes missing",
        "initial_states[0].cell.data",
        states(pb.State(hidden=STATE, cell=tensor(4, 6, data=bytes(95)))),
    ),
]
NOT_FOUND = {
    "model": pb.EncodeRequest(model="nobody", sequences=[GOOD]),
    "version": pb.EncodeRequest(model="small", version="7", sequences=[GOOD]),
    "version that is no number": pb.EncodeRequest(model="small", version="new", sequences=[GOOD]),
    "model with a long name": pb.EncodeRequest(model="n" * 1000, sequences=[GOOD]),
    "model not in Latin": pb.EncodeRequest(model="模型\n\0", sequences=[GOOD]),
    "model, nothing else": pb.EncodeRequest(model="nobody"),
}


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


@pytest.fixture(scope="module")
def wire(server: RunningServer) -> Iterator[Wire]:
    """To the shared server, with its default limits."""
    yield from connect(server.target)


@pytest.fixture(scope="module")
def strict(model_folder: Path, token_model_folder: Path) -> Iterator[Wire]:
    """To a server of the same models with small limits."""
    running = RunningServer(
        settings(
            model=[("small", model_folder), ("tokens", token_model_folder)],
            max_sequence_tokens=MAX_SEQUENCE_TOKENS,
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_request_sequences=MAX_REQUEST_SEQUENCES,
            max_message_bytes=MAX_MESSAGE_BYTES,
        )
    )
    try:
        yield from connect(running.target)
    finally:
        running.close()


def violation(error: Any) -> tuple[str, str]:
    """Field and description of the one violation that a refusal names."""
    status = rpc_status.from_call(error)
    assert status is not None
    (detail,) = status.details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    (found,) = bad.field_violations
    return found.field, found.description


# -- over the wire ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.name) for bad in BAD])
def test_bad_request_is_refused_by_field(strict: Wire, bad: Bad) -> None:
    """A bad request is INVALID_ARGUMENT, names the field and what was expected, and the next
    good request is served."""
    error = strict.refused(bad.request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    field, description = violation(error)
    assert field == bad.field
    assert description
    assert error.details() == f"{field}: {description}"
    strict.still_serves()


@pytest.mark.parametrize("name", NOT_FOUND)
def test_unknown_model_is_not_found(strict: Wire, name: str) -> None:
    """An unknown model or version is NOT_FOUND, whatever else is wrong; others are served."""
    error = strict.refused(NOT_FOUND[name])
    assert error.code() is grpc.StatusCode.NOT_FOUND, error.details()
    strict.still_serves()


def test_model_with_a_huge_name_is_refused(wire: Wire) -> None:
    """A name that no model can have is not looked for."""
    error = wire.refused(pb.EncodeRequest(model="n" * 100_000, sequences=[GOOD]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert violation(error)[0] == "model"
    wire.still_serves()


def test_unknown_model_names_those_there_are(wire: Wire) -> None:
    """The refusal of an unknown model lists the models."""
    details = wire.refused(NOT_FOUND["model"]).details()
    assert "small" in details
    assert "tokens" in details


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


def test_good_and_bad_at_once(strict: Wire) -> None:
    """Good requests in flight among bad ones all succeed."""
    calls: list[Any] = []
    for bad in BAD:
        calls += [strict.stub.Encode.future(r, timeout=60) for r in (bad.request, floats(GOOD))]
    for refused, served in zip(calls[::2], calls[1::2], strict=True):
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(served.result().encodings) == 1


# -- fuzz -------------------------------------------------------------------------------------

EXPECTED = {
    None,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
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


any_states = st.builds(pb.State, hidden=any_tensors(), cell=any_tensors())
any_requests = st.builds(
    pb.EncodeRequest,
    model=st.one_of(st.sampled_from(["", "small", "tokens"]), st.text(max_size=20)),
    version=st.one_of(st.sampled_from(["", "1"]), st.text(max_size=5)),
    sequences=st.lists(any_tensors(), max_size=4),
    outputs=st.lists(enums, max_size=8),
    output_data_type=st.one_of(st.integers(0, 3), enums),
    initial_states=st.lists(any_states, max_size=3),
)


def survives(wire: Wire, data: bytes) -> None:
    error: Any = wire.send(data)
    code = None if error is None else error.code()
    assert code in EXPECTED, (code, error.details())


@given(data=st.binary(max_size=300))
@examples(deadline=None, derandomize=True, max_examples=150)
def test_random_bytes_never_break_the_server(wire: Wire, data: bytes) -> None:
    """Random bytes are served or refused as the caller's fault."""
    survives(wire, data)


@given(request=any_requests)
@examples(deadline=None, derandomize=True, max_examples=300)
def test_random_requests_never_break_the_server(wire: Wire, request: pb.EncodeRequest) -> None:
    """Any EncodeRequest at all is served or refused as the caller's fault."""
    survives(wire, request.SerializeToString())


@given(request=any_requests, data=st.data())
@examples(deadline=None, derandomize=True, max_examples=150)
def test_mutilated_requests_never_break_the_server(
    wire: Wire, request: pb.EncodeRequest, data: st.DataObject
) -> None:
    """An EncodeRequest with a few bytes changed or cut off is served or refused."""
    mutilated = bytearray(request.SerializeToString())
    for _ in range(3):
        if mutilated:
            at = data.draw(st.integers(0, len(mutilated) - 1))
            mutilated[at] = data.draw(st.integers(0, 255))
    survives(wire, bytes(mutilated[: data.draw(st.integers(0, len(mutilated)))]))


def test_still_serves_after_the_fuzzing(wire: Wire) -> None:
    """After all of the above, a good request is served."""
    wire.still_serves()


# -- the codec --------------------------------------------------------------------------------

WIRE_DTYPES = [np.dtype(d) for d in ("<f4", "<f2", ml_dtypes.bfloat16, "<i4", "<i8")]
shapes = stn.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn) -> tensors.Array:
    """An array of any wire type, shape and layout: sliced, transposed, big-endian."""
    dtype = draw(st.sampled_from(WIRE_DTYPES))
    shape = draw(shapes)
    count = math.prod(shape)
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    array = np.frombuffer(raw, dtype).reshape(shape)
    layout = draw(st.sampled_from(["plain", "transposed", "reversed", "strided"]))
    if layout == "transposed":
        array = array.T
    elif layout == "reversed":
        array = array[(slice(None, None, -1),) * array.ndim]
    elif layout == "strided" and array.ndim:
        array = np.repeat(array, 2, axis=0)[::2]
    if dtype != ml_dtypes.bfloat16 and draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    return array


@given(array=arrays())
@examples(deadline=None, derandomize=True, max_examples=300)
def test_parts_of_a_tensor_are_its_message(array: tensors.Array) -> None:
    """Written in parts, a tensor's bytes are read as the message that `encode` makes."""
    read = pb.Tensor.FromString(b"".join(tensors.encode_parts(array)))
    assert read == tensors.encode(array)


@given(number=st.integers(1, 2**29 - 1), value=st.integers(0, 2**64 - 1), data=st.binary())
def test_fields_are_written_as_protobuf_reads_them(number: int, value: int, data: bytes) -> None:
    """A field's tag and length, and numbers of any size, are protobuf's."""
    written = wire_parts.number(number, value) + b"".join(wire_parts.delimited(number, [data]))
    fields: Any = unknown_fields.UnknownFieldSet(empty_pb2.Empty.FromString(written))
    assert [(f.field_number, f.data) for f in fields] == [(number, value), (number, data)]


@given(array=arrays())
@examples(deadline=None, derandomize=True, max_examples=300)
@example(array=np.float32(3).reshape(()))
@example(array=np.zeros((0, 5), ">f4"))
def test_tensors_survive_the_wire(array: tensors.Array) -> None:
    """Every array comes back with its type, shape and bits, whatever its layout in memory."""
    message = pb.Tensor.FromString(tensors.encode(array).SerializeToString())
    decoded = tensors.decode(message)
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype.newbyteorder("<")
    assert decoded.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert not decoded.flags.writeable or not decoded.size


@pytest.mark.parametrize(
    ("array", "data_type", "data"),
    [
        (np.array([[1, 2], [3, 4]], "<i4").T, pb.DATA_TYPE_INT32, "01000000 03000000 02000000 04"),
        (np.array([258], ">i8"), pb.DATA_TYPE_INT64, "0201"),
        (np.array([1.5], "<f4"), pb.DATA_TYPE_FLOAT32, "0000c03f"),
        (np.array([1.5], ">f2"), pb.DATA_TYPE_FLOAT16, "003e"),
        (np.array([1.5], ml_dtypes.bfloat16), pb.DATA_TYPE_BFLOAT16, "c03f"),
    ],
    ids=["int32", "int64", "float32", "float16", "bfloat16"],
)
def test_layout_on_the_wire(array: tensors.Array, data_type: int, data: str) -> None:
    """Elements travel row by row, each little-endian."""
    message = tensors.encode(array)
    assert message.data_type == data_type
    assert message.data == bytes.fromhex(data).ljust(array.nbytes, b"\0")


@pytest.mark.parametrize("dtype", ["f8", "i2", "u4", "?", "c8", "U3", "O"])
def test_types_that_the_wire_has_not(dtype: str) -> None:
    """An array of another type is a TypeError before anything is sent."""
    with pytest.raises(TypeError):
        tensors.encode(np.zeros(2, dtype))


@given(message=any_tensors())
@examples(deadline=None, derandomize=True, max_examples=500)
@example(message=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[0, 2**62], data=b""))
@example(message=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[0, 2**63 - 1, 2**63 - 1]))
@example(message=pb.Tensor(data_type=pb.DATA_TYPE_INT64, shape=[1] * 65, data=bytes(8)))
def test_decode_raises_tensor_errors_only(message: pb.Tensor) -> None:
    """Any Tensor message gives an array of its shape, or a TensorError that names its field."""
    try:
        array = tensors.decode(message)
    except tensors.TensorError as error:
        refusal = error
    else:
        assert array.shape == tuple(message.shape)
        assert array.tobytes() == message.data
        return
    assert refusal.field in {"data_type", "shape", "data"}
    assert refusal.expected
