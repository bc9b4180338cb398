"""What an error repeats of others' words is bounded: every status fits into the 8 KiB of metadata
that a caller's gRPC takes.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_client import Client, ModelNotFound
from bilstm_server.app import App
from bilstm_server.errors import InvalidInput, ModelError, Overloaded, ServiceError, Unavailable
from bilstm_server.quoting import listed, quoted
from bilstm_server.rpc.status import sequence_error, status_of
from tests.support.servers import RunningServer, settings

_METADATA_BYTES = 8 * 1024


def metadata_bytes(status: grpc.Status) -> int:
    """On the wire: the message with all but printable ASCII as %XX, the details in base64."""
    plain = set(string.printable[:95].encode()) - set(b"%")
    message = sum(1 if byte in plain else 3 for byte in (status.details or "").encode())
    values = (value for _, value in status.trailing_metadata or ())
    return message + sum(-(-len(value) // 3) * 4 for value in values)


KINDS: list[Callable[[str], ServiceError]] = [
    lambda text: InvalidInput(text, text),
    lambda text: Overloaded(text, 1.0),
    Unavailable,
]


@given(st.sampled_from(KINDS), st.text(), st.integers(1, 100_000))
def test_every_status_fits(kind: Callable[[str], ServiceError], text: str, times: int) -> None:
    """Whatever stands in an error, its status fits, and says the same code."""
    error = kind(text * times)
    assert metadata_bytes(status_of(error)) < _METADATA_BYTES - 1024
    assert len(sequence_error(error).SerializeToString()) < 4096


@given(st.text())
def test_what_is_quoted_stays_on_its_line(text: str) -> None:
    """A quoted text is printable and short."""
    assert quoted(text * 100).isprintable()
    assert len(quoted(text * 100)) <= 1_100


def test_names_that_are_listed() -> None:
    """Of many names the first ten are listed, and how many more there are."""
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(n) for n in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert len(listed(["x" * 255] * 1000)) < 1_100


def test_an_unknown_name_among_many(model_folder: Path) -> None:
    """With 120 models of long names the caller of another one is told `ModelNotFound`, and so is
    who sends a long name."""
    models = [(f"{number:03}-{'ö' * 200}", model_folder) for number in range(120)]
    running = RunningServer(settings(model=models))
    try:
        with Client(running.target) as client:
            for name in ("nobody", "é\x1b" * 300):
                with pytest.raises(ModelNotFound, match=r"there are: 000-ö+…, .*"):
                    client.get_model(name)
        with grpc.insecure_channel(running.target) as channel:
            stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.GetModel(pb.GetModelRequest(model=models[0][0], version="x" * 60_000))
        error: Any = refused.value
        (details,) = (v for k, v in error.trailing_metadata() if k == "grpc-status-details-bin")
        assert len(status_pb2.Status.FromString(details).message) < 1_000
    finally:
        running.close()


async def test_a_long_name_twice(model_folder: Path) -> None:
    """A name that is there twice is cut too."""
    async with App(settings(model=[("x" * 255, model_folder)] * 2)) as app:
        with pytest.raises(ModelError) as refused:
            await app.load()
    assert len(str(refused.value)) < 200


@given(st.text(), st.integers(1, 10_000))
def test_the_reason_of_an_end_is_a_line(text: str, times: int) -> None:
    """Whatever a file holds, what is said of it is one printable line."""
    line = str(ModelError(f"x.pt: {text * times} is missing"))
    assert line.isprintable()
    assert len(line) <= 10 * 2_001
