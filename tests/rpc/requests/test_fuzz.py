"""Whatever bytes and messages come, the server goes on."""

from __future__ import annotations

from typing import Any

import grpc
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm.v1 import encoder_pb2 as pb
from tests.rpc.requests.by_hand import Wire, any_tensors, enums

EXPECTED = {
    None,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

any_states = st.builds(pb.State, hidden=any_tensors(), cell=any_tensors())
any_names = st.sampled_from(["tokens", "features", "input", ""])
any_inputs = st.lists(st.builds(pb.NamedTensor, name=any_names, tensor=any_tensors()), max_size=3)
any_requests = st.builds(
    pb.EncodeRequest,
    model=st.one_of(st.sampled_from(["", "small", "tokens"]), st.text(max_size=20)),
    version=st.one_of(st.sampled_from(["", "1"]), st.text(max_size=5)),
    sequences=st.lists(any_tensors(), max_size=4),
    outputs=st.lists(enums, max_size=8),
    output_data_type=st.one_of(st.integers(0, 3), enums),
    initial_states=st.lists(any_states, max_size=3),
    named_sequences=st.lists(st.builds(pb.NamedInputs, inputs=any_inputs), max_size=3),
    output_names=st.lists(st.sampled_from(["states", "logits", "other", ""]), max_size=3),
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
