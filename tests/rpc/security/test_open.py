"""What everybody may ask, and what only callers may: health and reflection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rpc.security.callers import (
    bearer,
    outcome,
    plain_channel,
    reflection_outcome,
    running,
    write_tokens,
)
from tests.rpc.security.conftest import Configure
from tests.security.authority import TOKEN

OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens", f"search: {TOKEN}")


@pytest.mark.parametrize(("health", "without_token"), [("open", OK), ("callers", UNAUTHENTICATED)])
async def test_health(
    health: str, without_token: grpc.StatusCode, configure: Configure, tokens: Path
) -> None:
    """Whoever reaches the server may ask for its health, or watch it, unless it is for callers."""
    configured = configure(tokens_file=tokens, health=health)
    async with running(configured) as app, plain_channel(app) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest()
        for metadata, expected in (((), without_token), (bearer(TOKEN), OK)):
            assert await outcome(stub.Check(asked, metadata=metadata)) is expected
            assert await outcome(stub.Watch(asked, metadata=metadata).read()) is expected


async def test_reflection_is_for_callers(configure: Configure, tokens: Path) -> None:
    """Where callers need tokens, reflection tells others nothing."""
    async with running(configure(tokens_file=tokens)) as app, plain_channel(app) as channel:
        assert await reflection_outcome(channel) is UNAUTHENTICATED
        assert await reflection_outcome(channel, bearer(TOKEN)) is OK


@pytest.mark.parametrize(
    ("host", "reflection", "expected"),
    [
        ("127.0.0.1", "auto", OK),
        ("localhost", "auto", OK),
        ("127.0.0.1", "off", UNIMPLEMENTED),
        ("0.0.0.0", "auto", UNIMPLEMENTED),
        ("0.0.0.0", "on", OK),
    ],
)
async def test_where_there_is_reflection(
    host: str, reflection: str, expected: grpc.StatusCode, configure: Configure
) -> None:
    """Reflection is there for this machine, for others where the operator says so."""
    configured = configure(host=host, reflection=reflection, insecure=True)
    async with running(configured) as app, plain_channel(app) as channel:
        assert await reflection_outcome(channel) is expected
