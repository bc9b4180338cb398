"""What fuzzing begins with, and how it damages that."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults.fuzz import calls, connections
from benchmarks.faults.fuzz.frames import damaged_frames
from benchmarks.faults.fuzz.messages import Field, damaged_call, fields_of, message_of
from benchmarks.faults.fuzz.traffic import Traffic, frames_of, recorded
from benchmarks.faults.wire import PREFACE
from bilstm.v1 import encoder_pb2 as pb

_NUMBERS = st.integers(0, 2**64 - 1)
_FIELDS = st.one_of(
    st.builds(Field, st.integers(1, 2**29 - 1), st.just(0), _NUMBERS),
    st.builds(Field, st.integers(1, 2**29 - 1), st.just(2), st.binary(max_size=300)),
    st.builds(Field, st.integers(1, 2**29 - 1), st.just(1), st.binary(min_size=8, max_size=8)),
    st.builds(Field, st.integers(1, 2**29 - 1), st.just(5), st.binary(min_size=4, max_size=4)),
)


def test_the_traffic_has_every_method_and_form() -> None:
    """What was recorded has what the wire has now: a method that is not there is not fuzzed."""
    traffic = recorded()
    service = pb.DESCRIPTOR.services_by_name["EncoderService"]
    paths = {call.path for call in traffic.calls}
    assert paths >= {f"/{service.full_name}/{method.name}" for method in service.methods}
    requests = [
        pb.EncodeRequest.FromString(message)
        for call in traffic.calls
        for message in call.messages
        if call.path.endswith("/Encode")
    ]
    assert any(request.initial_states for request in requests)
    assert any(request.named_sequences for request in requests)
    streamed = [
        pb.EncodeStreamRequest.FromString(message)
        for call in traffic.calls
        for message in call.messages
        if call.path.endswith("/EncodeStream")
    ]
    assert any(message.options.HasField("live") for message in streamed)
    assert any(call.cancelled for call in traffic.calls)


def test_a_case_is_the_same_every_time() -> None:
    """A seed and a number make the same case, whatever was made before."""
    traffic = recorded()
    assert list(calls.cases_of(traffic, 200)) == list(calls.cases_of(traffic, 200))
    assert list(connections.cases_of(traffic, 200)) == list(connections.cases_of(traffic, 200))
    assert list(calls.cases_of(traffic, 20, seed=1)) != list(calls.cases_of(traffic, 20))


@given(st.lists(_FIELDS, max_size=8))
def test_a_message_is_its_fields(fields: list[Field]) -> None:
    """What is read of a message's bytes makes the same bytes again."""
    assert fields_of(message_of(fields)) == fields


@given(st.binary(max_size=200))
def test_fields_of_whatever_bytes(data: bytes) -> None:
    """Bytes that are no message are told from those that are, and raise nothing."""
    fields = fields_of(data)
    assert fields is None or fields_of(message_of(fields)) == fields


@given(st.integers(0, 2**32), st.data())
def test_calls_and_connections_can_be_damaged(seed: int, data: st.DataObject) -> None:
    """Any random numbers damage any of what was recorded, and most of it is changed."""
    traffic: Traffic = recorded()
    call = data.draw(st.sampled_from(traffic.calls))
    random = Random(seed)
    changed = [damaged_call(call, traffic.calls, random) != call for _ in range(20)]
    connection = data.draw(st.sampled_from(traffic.connections))
    frames = list(frames_of(connection))
    assert PREFACE + b"".join(frame.serialize() for frame in frames) == connection
    changed += [damaged_frames(frames, PREFACE, random) != connection for _ in range(20)]
    assert sum(changed) > len(changed) / 2
