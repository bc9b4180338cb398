"""Whatever a gRPC status says, it becomes one of the client's own errors. No server is needed."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bilstm_client import (
    EncoderError,
)
from bilstm_client._calls.status import typed_errors
from bilstm_client._calls.target import Target


class Failed(grpc.RpcError):
    """As gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, text: str | None, trailers: Any):
        super().__init__()
        self._said = (code, text, trailers)

    def code(self) -> grpc.StatusCode:
        return self._said[0]

    def details(self) -> str | None:
        return self._said[1]

    def trailing_metadata(self) -> Any:
        return self._said[2]


KINDS = [
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.RequestInfo,
]


@st.composite
def any_details(draw: st.DrawFn) -> bytes:
    """Bytes, or a status with what may be details."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=40))
    said = status_pb2.Status(code=draw(st.integers(-(2**31), 2**31 - 1)))
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(KINDS)).DESCRIPTOR.full_name
        said.details.add(type_url=f"type.googleapis.com/{kind}", value=draw(st.binary(max_size=40)))
    packed: bytes = said.SerializeToString()
    return packed


@given(
    code=st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    text=st.none() | st.text(max_size=20) | st.just("larger than max"),
    trailers=st.none()
    | st.lists(
        st.tuples(
            st.sampled_from(["grpc-status-details-bin", "grpc-retry-pushback-ms", "x"]),
            any_details() | st.text(max_size=9),
        ),
        max_size=3,
    ),
    part=st.tuples(st.integers(0, 3), st.integers(3, 9)),
    proxy=st.sampled_from(["", "proxy:1 (http_proxy)"]),
)
@hypothesis_settings(max_examples=500, deadline=None)
def test_any_status(
    code: grpc.StatusCode, text: str | None, trailers: Any, part: tuple[int, int], proxy: str
) -> None:
    """Whatever a status has, it is a typed error of its code."""
    target = Target("host:50051", is_balanced=False, is_direct=not proxy, proxy=proxy)
    with pytest.raises(EncoderError) as caught, typed_errors(slice(*part), target):
        raise Failed(code, text, trailers)
    assert caught.value.code is code
    assert caught.value.retry_after_seconds is None or caught.value.retry_after_seconds >= 0
    assert str(caught.value).startswith(code.name)
