"""What the log says of calls that are refused: who, why, how many, and not a line for each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from bilstm_server.errors import (
    DeadlineExpired,
    InvalidInput,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
)
from bilstm_server.rpc.refusals import RefusalLog
from tests.rpc.security.callers import bearer, encode_outcome, plain_channel, write_tokens
from tests.rpc.toy import DOUBLE, FOUR, serving
from tests.security.authority import TOKEN
from tests.support.waiting import HANGS_AFTER_SECONDS, until

CALLS = 100
LOGGED: list[ServiceError] = [
    Unauthenticated("the token was withdrawn"),
    PermissionDenied("may not"),
    Overloaded("the queue is full", 1.0),
    DeadlineExpired("would take about 200 ms"),
]


async def status(channel: grpc.aio.Channel, caller: str) -> str:
    call: Any = channel.unary_unary(DOUBLE)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call(FOUR, metadata=[("x-caller", caller)], timeout=HANGS_AFTER_SECONDS)
    return ended.value.code().name


async def test_each_kind_has_a_line(model_folder: Path) -> None:
    """The first call that is refused in one way is logged at once, with its caller, its status and
    what it was told; many more are not a line each."""
    async with serving(model_folder, caller_header="x-caller") as (app, channel):
        for error in LOGGED:
            app.toy.refusal = error
            with capture_logs() as logged:
                told = {await status(channel, f"caller {number}") for number in range(CALLS)}
            first = logged[0]
            assert told == {first["status"]}
            assert (first["event"], first["log_level"]) == ("calls refused", "warning")
            assert (first["calls"], first["caller"], first["reason"]) == (1, "caller 0", str(error))
            assert len(logged) < CALLS / 10


@pytest.mark.parametrize("error", [InvalidInput("field", "must be"), Unavailable("draining")])
async def test_what_callers_do_wrong_is_not_logged(error: ServiceError, model_folder: Path) -> None:
    """Nor is what a server says that starts or ends: it has lines of its own."""
    async with serving(model_folder) as (app, channel):
        app.toy.refusal = error
        with capture_logs() as logged:
            await status(channel, "")
    assert logged == []


async def test_later_ones_are_counted() -> None:
    """Refusals after a line are in the next one, which names the last caller, and comes by itself;
    kinds don't wait for each other."""
    refusals = RefusalLog(log_seconds=0.01)
    full, wrong = Overloaded("full", 1.0), Unauthenticated("wrong")
    with capture_logs() as logged:
        for number in range(CALLS):
            refusals.note(full, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{number}")
        refusals.note(wrong, grpc.StatusCode.UNAUTHENTICATED, "")
        lines = [(line["reason"], line["calls"], line["caller"]) for line in logged]
        assert lines == [("full", 1, "0"), ("wrong", 1, None)]
        await until(lambda: len(logged) > 2)
        assert (logged[2]["reason"], logged[2]["calls"]) == ("full", CALLS - 1)
        assert logged[2]["caller"] == f"{CALLS - 1}"
        await asyncio.sleep(0.02)  # its timer comes first
        assert len(logged) == 3
        refusals.note(full, grpc.StatusCode.RESOURCE_EXHAUSTED, "")
        assert logged[3]["calls"] == 1


async def test_who_is_not_known_has_an_address(model_folder: Path, tmp_path: Path) -> None:
    """A call without a good token is logged with its address, and never with what it presented; so
    is one that comes while too many are in flight."""
    tokens = write_tokens(tmp_path / "tokens", f"search: {TOKEN}")
    wrong = "w" * len(TOKEN)
    async with serving(model_folder, tokens_file=tokens, max_calls=1) as (app, channel):
        with capture_logs() as logged:
            await encode_outcome(plain_channel(app), bearer(wrong))
            app.toy.gate.clear()
            call: Any = channel.unary_unary(DOUBLE)
            first = call(FOUR, metadata=bearer(TOKEN))
            await until(lambda: app.toy.arrived == 1)
            await encode_outcome(plain_channel(app), bearer(TOKEN))
            app.toy.gate.set()
            await first
    assert [line["status"] for line in logged] == ["UNAUTHENTICATED", "RESOURCE_EXHAUSTED"]
    assert {line["caller"] for line in logged} == {"127.0.0.1"}
    assert not any(secret in str(logged) for secret in (TOKEN, wrong))
