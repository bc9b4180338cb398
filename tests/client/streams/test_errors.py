"""What one sequence of a stream can fail of, and that the others go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import (
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    Live,
    ModelNotFound,
    NotAnArray,
    Overloaded,
    ServerError,
    Unavailable,
)
from bilstm_client._calls.status import sequence_error
from bilstm_client.types import Encoding
from tests.client.clients import AnyClient, Connect
from tests.client.streams.sources import WRONG, X, assert_states
from tests.support.servers import RunningServer, settings


def test_raised_error(client: AnyClient) -> None:
    """A sequence that is refused ends the stream by an error that says which it was."""
    results = client.encode_stream([("a", X), ("b", X), ("c", WRONG), ("d", X)])
    assert [next(results)[0], next(results)[0]] == ["a", "b"]
    with pytest.raises(InvalidInput) as caught:
        next(results)
    error = caught.value
    assert (error.index, error.key, error.field) == (2, "c", "sequences[2].shape")
    assert error.expected == "must be [T, 5] (input_size), got [2, 4]"
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(results) == []


def test_raised_type_error(client: AnyClient) -> None:
    """So does what is no array, after the results of those before it."""
    results = client.encode_stream([X, X, "abc", X])
    assert_states(next(results), next(results).states)
    with pytest.raises(NotAnArray, match=r"^sequences\[2\]: must be an array of numbers") as caught:
        next(results)
    assert isinstance(caught.value, TypeError)
    assert (caught.value.index, caught.value.key) == (2, 2)


class Detached:
    """Has a method of tensors, and is none."""

    def detach(self) -> object:
        return self


class Pretender(Detached):
    dtype = "float32"


@pytest.mark.parametrize("wrong", [Detached(), Pretender(), {1, 2}, frozenset({1}), "a"])
def test_no_array(wrong: Any, client: AnyClient) -> None:
    """What only looks like an array is an error in its place, with its index and key."""
    source = [("a", X), ("b", wrong), ("c", iter([X, wrong])), ("d", X)]
    _, (_, error), (_, later), (_, last) = client.encode_stream(source, on_error="return")
    assert isinstance(error, NotAnArray)
    assert (error.index, error.key) == (1, "b")
    assert str(error).startswith("sequences[1]: must be an array of numbers")
    assert isinstance(later, NotAnArray)
    assert (later.index, later.key) == (2, "c")
    assert isinstance(last, Encoding)


HALF_WRONG: dict[str, Any] = {
    "of another width": (InvalidInput, [X, WRONG, X]),
    "no numbers": (NotAnArray, [X, "abc", X]),
    "without steps": (InvalidInput, []),
    "no array": (NotAnArray, None),
}


@pytest.mark.parametrize("case", HALF_WRONG)
def test_refused_in_the_middle(case: str, client: AnyClient) -> None:
    """What is wrong in a later chunk is its sequence's error, and the stream goes on."""
    kind, chunks = HALF_WRONG[case]
    wrong = chunks if chunks is None else iter(chunks)
    results = list(client.encode_stream([X, wrong, X], on_error="return"))
    assert [type(result) for result in results] == [Encoding, kind, Encoding]
    assert_states(results[2], results[0].states)


@pytest.mark.parametrize(
    "wrong",
    [lambda: iter([WRONG, X, X]), lambda: np.broadcast_to(np.float32(1), (500_000, 4))],
    ids=["chunks", "array"],
)
def test_refusals_do_not_add_up(
    wrong: Callable[[], Any], connect: Connect, model_folder: Path
) -> None:
    """A server that keeps few sequences takes any number that it refuses half way."""
    running = RunningServer(settings(model=[("small", model_folder)], max_stream_sequences=4))
    try:
        source = (wrong() for _ in range(12))
        client = connect(running.target)
        results = list(client.encode_stream(source, on_error="return"))
        client.close()
    finally:
        running.close()
    assert [type(result) for result in results] == [InvalidInput] * 12


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, ServerError),
        (None, ServerError),
    ],
)
def test_kinds_of_errors(code: grpc.StatusCode | None, kind: type[EncoderError]) -> None:
    """A sequence's error is what a call would have raised."""
    number = 99 if code is None else code.value[0]
    message = pb.SequenceError(code=number, message="because", error_id="e1")
    error = sequence_error(message, 3)
    assert type(error) is kind
    assert error.code is (code or grpc.StatusCode.UNKNOWN)
    assert "because" in str(error)
    if isinstance(error, ServerError):
        assert error.error_id == "e1"


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("steps", "sequences[3]"),
        ("steps.shape", "sequences[3].shape"),
        ("initial_state.cell.data", "initial_states[3].cell.data"),
        ("last", "sequences[3]"),
    ],
)
def test_fields_of_errors(field: str, named: str) -> None:
    """The field at fault is named as the caller knows it."""
    error = sequence_error(pb.SequenceError(code=3, field=field, expected="must be so"), 3)
    assert isinstance(error, InvalidInput)
    assert (error.field, error.expected) == (named, "must be so")
    assert str(error) == f"INVALID_ARGUMENT: {named}: must be so"


def test_error_of_the_stream(client: AnyClient) -> None:
    """What concerns all sequences ends the stream, also where errors are returned."""
    with pytest.raises(ModelNotFound):
        list(client.encode_stream([X], model="none", on_error="return"))
    with pytest.raises(InvalidInput, match=r"outputs\[0\]") as caught:
        list(client.encode_stream([[1, 2]], model="tokens", outputs=["logits"]))
    assert caught.value.index is None


@pytest.mark.parametrize("live", [None, Live(2)])
def test_integers_that_are_no_token_ids(live: Live | None, client: AnyClient) -> None:
    """Token ids in a batch of one are refused for their shape, not as floats; also in chunks."""
    ids = np.array([[1, 2, 3]])
    for x in (ids, [[1, 2, 3]], iter([ids])):
        results = client.encode_chunks([x], model="tokens", live=live)
        with pytest.raises(InvalidInput) as caught:
            list(results)
        assert caught.value.field == "sequences[0].shape"
        assert caught.value.expected == "must be [T] of token ids, got [1, 3]"


def test_large_tensor_without_numbers(client: AnyClient) -> None:
    """A tensor that can't be cut into pieces is refused as what it is."""
    for x in (torch.ones(100_000, 5).to_sparse(), torch.ones(100_000, 5, device="meta")):
        error, encoding = client.encode_stream([x, X], on_error="return")
        assert isinstance(error, NotAnArray)
        assert isinstance(encoding, Encoding)
