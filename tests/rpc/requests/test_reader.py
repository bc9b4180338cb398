"""Messages with tensors as the server reads them: the same as protobuf reads, which is the judge,
and bounded in what reading them takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm import wire as parts
from bilstm.sizes import MAX_CHUNKS, MAX_INPUTS, MAX_MESSAGE_INPUTS, MAX_NAME_BYTES
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.errors import InvalidInput
from bilstm_server.rpc.encoder import reader
from bilstm_server.settings import RequestLimits

MAX_SEQUENCES = 16
LIMITS = RequestLimits(
    max_message_bytes=2**20,
    max_sequence_tokens=100,
    max_request_sequences=MAX_SEQUENCES,
    max_batch_tokens=1000,
    max_stream_bytes=2**20,
    max_stream_sequences=10,
    max_whole_tokens=100,
)
READERS = {
    pb.EncodeRequest: reader.encode_request_decoder(LIMITS),
    pb.EncodeStreamRequest: reader.decode_stream_request,
}

int32s, int64s = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
a_tensor = st.builds(
    pb.Tensor, data_type=int32s, shape=st.lists(int64s, max_size=10), data=st.binary(max_size=40)
)
a_state = st.builds(pb.State, hidden=a_tensor, cell=a_tensor)
a_named_tensor = st.builds(pb.NamedTensor, name=st.text(max_size=8), tensor=st.none() | a_tensor)
some_inputs = st.lists(a_named_tensor, max_size=3)
some_tensors, some_states = st.lists(a_tensor, max_size=4), st.lists(a_state, max_size=3)
a_request = st.builds(
    pb.EncodeRequest,
    model=st.text(max_size=20),
    version=st.text(max_size=5),
    sequences=some_tensors,
    outputs=st.lists(int32s, max_size=8),
    output_data_type=int32s,
    initial_states=some_states,
    named_sequences=st.lists(st.builds(pb.NamedInputs, inputs=some_inputs), max_size=3),
    output_names=st.lists(st.text(max_size=8), max_size=4),
)
a_chunk = st.builds(
    pb.SequenceChunk,
    id=int64s,
    steps=st.none() | a_tensor,
    last=st.booleans(),
    initial_state=st.none() | a_state,
    inputs=some_inputs,
)
a_stream_request = st.builds(
    pb.EncodeStreamRequest,
    options=st.none() | st.builds(pb.StreamOptions, model=st.text(max_size=5)),
    chunks=st.lists(a_chunk, max_size=4),
)
messages: Any = a_request | a_stream_request


def plain(message: Any) -> Any:
    """Fields by name, whoever has read them; without those that are absent or empty."""
    if isinstance(message, Message):
        fields = {field.name: value for field, value in message.ListFields()}
    elif hasattr(message, "__dataclass_fields__"):
        fields = {name: getattr(message, name) for name in message.__dataclass_fields__}
    elif isinstance(message, memoryview):
        return bytes(message)
    elif isinstance(message, str | bytes | int):
        return message
    else:
        return [plain(item) for item in message]
    found = {name: plain(value) for name, value in fields.items() if value is not None}
    return {name: value for name, value in found.items() if value or value == {}}


def without_empty(value: Any) -> Any:
    """Sub-messages that hold nothing are not told from absent ones inside of tensors and states."""
    if isinstance(value, dict):
        inner = {name: without_empty(item) for name, item in value.items()}
        return {name: item for name, item in inner.items() if item != {}}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


def has_groups(message: Message) -> bool:
    """Whether there are groups among the fields that protobuf does not know."""
    unknown: Any = UnknownFieldSet(message)
    if any(field.wire_type == 3 for field in unknown):
        return True
    inner: list[Message] = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            inner += value if field.is_repeated else [value]
    return any(map(has_groups, inner))


def judge(kind: Any, data: bytes) -> None:
    """Both read the same, or both refuse."""
    message: Any = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        with pytest.raises(InvalidInput):
            READERS[kind](data)
        return
    if has_groups(message):
        with pytest.raises(InvalidInput):
            READERS[kind](data)
        return
    read = READERS[kind](data)
    assert without_empty(plain(read)) == without_empty(plain(message))


@given(message=messages)
@examples(deadline=None, derandomize=True, max_examples=300)
def test_any_message_is_read_as_protobuf_reads_it(message: Any) -> None:
    """Any message, with tensors or without, is read as protobuf reads it."""
    judge(type(message), message.SerializeToString())


@given(one=messages, other=messages)
@examples(deadline=None, derandomize=True, max_examples=300)
def test_messages_are_merged(one: Any, other: Any) -> None:
    """One message after another is their fields together, the other's last."""
    judge(type(one), one.SerializeToString() + other.SerializeToString())


@given(message=messages, data=st.data())
@examples(deadline=None, derandomize=True, max_examples=1000)
def test_mutilated_messages(message: Any, data: st.DataObject) -> None:
    """A message with a few bytes changed or cut off is read, or refused, as protobuf does."""
    mutilated = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        if mutilated:
            at = data.draw(st.integers(0, len(mutilated) - 1))
            mutilated[at] = data.draw(st.integers(0, 255))
    judge(type(message), bytes(mutilated[: data.draw(st.integers(0, len(mutilated)))]))


@given(kind=st.sampled_from(list(READERS)), data=st.binary(max_size=60))
@examples(deadline=None, derandomize=True, max_examples=1000)
def test_any_bytes(kind: Any, data: bytes) -> None:
    """Any bytes are read, or refused, as protobuf does."""
    judge(kind, data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xa8\x80\x80\x80\x80\x00\x01",
        b"\xa8\x80\x80\x80\x00\x01",
        b"\x28" + b"\xff" * 9 + b"\x02",
        b"\x20\x80\x80\x80\x80\x10",
        b"\x22\x0a" + 2 * b"\x81\x80\x80\x80\x30",
        b"\x28" + b"\x80" * 10 + b"\x01",
        b"\x0a\x81\x80\x80\x80\x80\x00a",
        b"\x80\x80\x80\x80\x10\x01",
        b"\xf8\xff\xff\xff\x0f\x01",
    ],
    ids=[
        "tag of 6",
        "tag of 5",
        "more than 64 bits",
        "enum of 33 bits",
        "packed enums of 34 bits",
        "11 bytes",
        "long size",
        "2**29",
        "2**29-1",
    ],
)
def test_numbers_at_their_limits(data: bytes) -> None:
    """Varints longer than they need be, or longer than they may be."""
    judge(pb.EncodeRequest, data)


def field(number: int, *inner: bytes) -> bytes:
    return b"".join(parts.delimited(number, inner))


MOST = reader._OTHER_FIELDS + reader._SEQUENCE_FIELDS * MAX_SEQUENCES
# By what they are made of: more fields than a good message has, wherever they lie.
FLOODS = {
    "strings": field(1) * (MOST + 1),
    "unknown varints": b"\xf8\x01\x01" * (MOST + 1),
    "unknown fixed numbers": (b"\xfd\x01" + bytes(4)) * (MOST + 1),
    "unknown bytes": field(31) * (MOST + 1),
    "in a sequence": field(3, field(31) * (MOST + 1)),
    "in a sequence's data": field(3, field(3) * (MOST + 1)),
    "in a state's tensor": field(6, field(1, field(31) * (MOST + 1))),
    "over all sequences": field(3, field(31) * (MOST // MAX_SEQUENCES + 1)) * MAX_SEQUENCES,
    "sequences": field(3) * (MAX_SEQUENCES + 1),
    "states": field(6) * (MAX_SEQUENCES + 1),
    "a packed shape": field(3, field(2, bytes(100_000))),
    "an unpacked shape": field(3, b"\x10\x01" * 65),
    "a name": field(1, b"n" * 1025),
    "a version": field(2, b"n" * 1025),
    "named sequences": field(7) * (MAX_SEQUENCES + 1),
    "inputs of a sequence": field(7, field(1) * (MAX_INPUTS + 1)),
    "in a named input": field(7, field(1, field(31) * (MOST + reader._INPUT_FIELDS + 1))),
    "an input's name": field(7, field(1, field(1, b"n" * (MAX_NAME_BYTES + 1)))),
    "output names": field(8, b"n") * (reader._MAX_OUTPUTS + 1),
    "an output's name": field(8, b"n" * (MAX_NAME_BYTES + 1)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_more_than_a_good_request_needs(name: str) -> None:
    """What a request may unfold into is bounded, whatever it is made of."""
    with pytest.raises(InvalidInput, match=r"more|at most"):
        READERS[pb.EncodeRequest](FLOODS[name])


def test_chunks_of_one_message() -> None:
    """A message to a stream has as many chunks as the contract says, and no more."""
    read = READERS[pb.EncodeStreamRequest](field(2) * MAX_CHUNKS)
    assert len(read.chunks) == MAX_CHUNKS
    with pytest.raises(InvalidInput, match="at most") as refusal:
        READERS[pb.EncodeStreamRequest](field(2) * (MAX_CHUNKS + 1))
    assert refusal.value.field == "chunks"
    contract = Path(pb.__file__).with_name("encoder.proto").read_text("utf-8")
    assert f"chunks = 2; // at most {MAX_CHUNKS};" in contract


def test_inputs_of_one_message() -> None:
    """A message has as many named inputs as the contract says, in all of its chunks, and no
    more."""
    chunk = field(2, field(5, field(1, b"x"), field(2, field(2, b"\0"))) * MAX_INPUTS)
    most = chunk * (MAX_MESSAGE_INPUTS // MAX_INPUTS)
    read = READERS[pb.EncodeStreamRequest](most)
    assert [len(chunk.inputs) for chunk in read.chunks] == [MAX_INPUTS] * (len(most) // len(chunk))
    with pytest.raises(InvalidInput, match=f"at most {MAX_MESSAGE_INPUTS} inputs"):
        READERS[pb.EncodeStreamRequest](most + field(2, field(5)))
    contract = Path(pb.__file__).with_name("encoder.proto").read_text("utf-8")
    assert f"has at most {MAX_INPUTS}, and a message at most {MAX_MESSAGE_INPUTS}" in contract
    assert f"at most {MAX_NAME_BYTES} bytes" in contract


def test_groups_are_refused() -> None:
    """Groups are refused, however deep: nothing is remembered of what they open."""
    for data in (b"\xfb\x01" * 100_000, b"\xfb\x01\xfc\x01", b"\xfc\x01"):
        with pytest.raises(InvalidInput, match="no message"):
            READERS[pb.EncodeRequest](data)


def test_no_more_options_than_a_stream_can_need() -> None:
    """Options of a stream that are larger than any need are refused by their field."""
    with pytest.raises(InvalidInput, match="at most") as refusal:
        READERS[pb.EncodeStreamRequest](field(1, field(1, b"n" * 100_000)))
    assert refusal.value.field == "options"


def test_options_that_are_merged_again_and_again() -> None:
    """Their bytes are counted together."""
    with pytest.raises(InvalidInput, match="at most") as refusal:
        READERS[pb.EncodeStreamRequest](field(1, field(3, bytes(10_000))) * 10)
    assert refusal.value.field == "options"


@pytest.mark.parametrize(
    "data",
    [
        field(31, bytes(10**6)),
        field(3, field(31, bytes(10**6))),
        field(3, field(3, bytes(10**6)) * 2),
        field(7, field(1, field(31, bytes(10**6)))),
    ],
    ids=["unknown", "unknown in a tensor", "data twice", "unknown in an input"],
)
def test_no_more_beside_tensors_than_a_good_request_needs(data: bytes) -> None:
    """What a request has beside its tensors is bounded: it would stay in memory as long as they
    do."""
    with pytest.raises(InvalidInput, match="beside its tensors"):
        READERS[pb.EncodeRequest](data)


def test_tensors_lie_in_the_bytes_that_came() -> None:
    """However large a request is, its tensors are not copied to read it."""
    named = pb.NamedInputs(inputs=[pb.NamedTensor(name="x", tensor=pb.Tensor(data=b"abc"))])
    request = pb.EncodeRequest(sequences=[pb.Tensor(data=b"abc")], named_sequences=[named])
    data = request.SerializeToString()
    read = READERS[pb.EncodeRequest](data)
    assert read.sequences[0].data.obj is data
    assert read.named_sequences[0].inputs[0].tensor.data.obj is data
