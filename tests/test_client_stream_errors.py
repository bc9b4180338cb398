"""What one sequence of a stream can fail of, and that the others go on; states in files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from client_streams import (
    SEQUENCES,
    WRONG,
    Connect,
    Streams,
    X,
    assert_states,
)
from client_streams import client as client
from client_streams import connect as connect
from client_streams import fake as fake
from client_streams import faked as faked
from conftest import RunningServer, settings
from streaming import HANGS_AFTER_SECONDS, INPUT_SIZE, Break, FakeServer, serving, sums

from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import (
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    Live,
    ModelNotFound,
    NotAnArray,
    NotSaved,
    Overloaded,
    ServerError,
    Unavailable,
)
from bilstm_client._calls.status import sequence_error
from bilstm_client.types import Encoding

# -- errors of one sequence --------------------------------------------------------------------


def test_raised_error(client: Streams) -> None:
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


def test_raised_type_error(client: Streams) -> None:
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


@pytest.mark.parametrize("wrong", [Detached(), Pretender(), {1, 2}, frozenset({1}), {"a": 1}, "a"])
def test_no_array(wrong: Any, client: Streams) -> None:
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
def test_refused_in_the_middle(case: str, client: Streams) -> None:
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


def test_error_of_the_stream(client: Streams) -> None:
    """What concerns all sequences ends the stream, also where errors are returned."""
    with pytest.raises(ModelNotFound):
        list(client.encode_stream([X], model="none", on_error="return"))
    with pytest.raises(InvalidInput, match=r"outputs\[0\]") as caught:
        list(client.encode_stream([[1, 2]], model="tokens", outputs=["logits"]))
    assert caught.value.index is None


# -- states in files ---------------------------------------------------------------------------


def test_save_states(client: Streams, tmp_path: Path) -> None:
    """States go to files as numpy reads them, and come back as maps of these."""
    alone = client.encode_batch(SEQUENCES, outputs=["states", "final"])
    for key, encoding in client.encode_stream(
        ((str(i), x) for i, x in enumerate(SEQUENCES)),
        outputs=["states", "final"],
        save_states=lambda key: tmp_path / f"{key}.npy",
    ):
        expected = alone[int(key)]
        assert isinstance(encoding.states, np.memmap)
        assert_states(encoding, expected.states)
        final, expected_final = encoding.final, expected.final
        np.testing.assert_allclose(final, expected_final, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.load(tmp_path / f"{key}.npy"), encoding.states)
    assert len(list(tmp_path.iterdir())) == len(SEQUENCES)


def test_save_states_of_a_stream_that_ends(
    faked: Streams, fake: FakeServer, tmp_path: Path
) -> None:
    """A file is whole or not there."""
    fake.reply_steps = 2
    fake.breaks = [Break(replies=6, code=grpc.StatusCode.INTERNAL)]
    with pytest.raises(ServerError):
        list(faked.encode_stream(SEQUENCES, save_states=lambda index: tmp_path / f"{index}.npy"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npy", "1.npy"]


def test_save_states_where_none_can_be(faked: Streams, tmp_path: Path) -> None:
    """A file that can't be written is its own error."""
    path = tmp_path / "none" / "x.npy"
    with pytest.raises(NotSaved) as caught:
        list(faked.encode_stream([("a", X)], save_states=lambda _: path))
    assert (caught.value.index, caught.value.key, caught.value.filename) == (0, "a", str(path))
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOENT


def test_save_states_where_some_can_not_be(
    faked: Streams, fake: FakeServer, tmp_path: Path
) -> None:
    """It is that of its sequence alone, where errors are returned."""
    fake.reply_steps = 2
    folders = [tmp_path, tmp_path / "none", tmp_path]
    source = enumerate([X, X, X])
    results = list(
        faked.encode_stream(
            source, save_states=lambda key: folders[key] / f"{key}.npy", on_error="return"
        )
    )
    assert [type(result) for _, result in results] == [Encoding, NotSaved, Encoding]
    np.testing.assert_array_equal(results[2][1].states, sums(X))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npy", "2.npy"]


@pytest.mark.parametrize("steps", [3, 50_000])
def test_save_states_on_a_full_disk(steps: int, faked: Streams, tmp_path: Path) -> None:
    """So is what there is no room for, whether that is found while it is written or at its end."""
    (tmp_path / f".x.npy.{os.getpid()}.tmp").symlink_to("/dev/full")
    error, encoding = faked.encode_stream(
        [np.ones((steps, INPUT_SIZE)), X],
        save_states=lambda key: None if key else tmp_path / "x.npy",
        on_error="return",
    )
    assert list(tmp_path.iterdir()) == []
    assert isinstance(error, NotSaved)
    assert error.errno == errno.ENOSPC
    assert isinstance(encoding, Encoding)


MEMORY = """
import re, sys
import numpy as np
from pathlib import Path
from bilstm_client import Client

def most():  # that was ever resident since it was reset
    (kib,) = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) * 1024

target, folder, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Client(target) as client:
    list(client.encode_stream([np.ones((1000, 5), "f8")]))
    Path("/proc/self/clear_refs").write_text("5")
    before = most()
    x = np.load(f"{folder}/x.npy", mmap_mode="r")
    (encoding,) = client.encode_stream([x], save_states=lambda _: f"{folder}/y.npy")
    peak = most()
    assert encoding.states.shape == (steps, 5)
    assert encoding.states[-1, 0] == steps
print(peak - before)
"""


def test_memory(fake: FakeServer, tmp_path: Path) -> None:
    """A sequence from a file to a file takes a fraction of its size of the client's memory."""
    steps = 4_000_000  # 160 MB as float64
    fake.reply_steps = 50_000
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (steps, INPUT_SIZE))[:] = 1
    with serving(fake) as target:
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, target, str(tmp_path), str(steps)],
            capture_output=True,
            text=True,
            timeout=2 * HANGS_AFTER_SECONDS,
        )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 64 * 2**20


@pytest.mark.parametrize("live", [None, Live(2)])
def test_integers_that_are_no_token_ids(live: Live | None, client: Streams) -> None:
    """Token ids in a batch of one are refused for their shape, not as floats; also in chunks."""
    ids = np.array([[1, 2, 3]])
    for x in (ids, [[1, 2, 3]], iter([ids])):
        results = client.encode_chunks([x], model="tokens", live=live)
        with pytest.raises(InvalidInput) as caught:
            list(results)
        assert caught.value.field == "sequences[0].shape"
        assert caught.value.expected == "must be [T] of token ids, got [1, 3]"


def test_large_tensor_without_numbers(client: Streams) -> None:
    """A tensor that can't be cut into pieces is refused as what it is."""
    for x in (torch.ones(100_000, 5).to_sparse(), torch.ones(100_000, 5, device="meta")):
        error, encoding = client.encode_stream([x, X], on_error="return")
        assert isinstance(error, NotAnArray)
        assert isinstance(encoding, Encoding)
