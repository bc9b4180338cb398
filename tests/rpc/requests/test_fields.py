"""Bad input over the wire is refused with the field at fault by name, and nothing else is
disturbed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from bilstm.v1 import encoder_pb2 as pb
from tests.rpc.requests.by_hand import GOOD, STATE, Wire, floats, ids, tensor, tokens, violation


def states(*states: pb.State, sequences: int = 1) -> pb.EncodeRequest:
    return floats(*[GOOD] * sequences, initial_states=states)


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


def test_good_and_bad_at_once(strict: Wire) -> None:
    """Good requests in flight among bad ones all succeed."""
    calls: list[Any] = []
    for bad in BAD:
        calls += [strict.stub.Encode.future(r, timeout=60) for r in (bad.request, floats(GOOD))]
    for refused, served in zip(calls[::2], calls[1::2], strict=True):
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(served.result().encodings) == 1
