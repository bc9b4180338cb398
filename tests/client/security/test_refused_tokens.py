"""What becomes of calls whose token is refused, or can't be had."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest

from bilstm_client import (
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from tests.client.clients import AnyClient, Connect
from tests.client.security.calls import CALLS, swap
from tests.client.security.servers import Secured, World, secured
from tests.client.streams.sources import X, assert_states
from tests.support.fake_streams import Break, sums
from tests.support.waiting import HANGS_AFTER_SECONDS


@pytest.mark.parametrize("call", CALLS)
def test_refused_token_is_read_anew(
    call: str, world: World, asking: Secured, connect: Connect, tmp_path: Path
) -> None:
    """Where a token was swapped as a call was on its way, the call is made with the new one."""
    file = tmp_path / "token"
    file.write_text("old")
    asking.tokens.on_refusal = lambda: swap(file, "two")
    CALLS[call](connect(asking.target, tls=world.ca, token=file))
    assert asking.tokens.seen[:2] == ["Bearer old", "Bearer two"]


@pytest.mark.parametrize("call", CALLS)
def test_refused_twice(call: str, world: World, asking: Secured, connect: Connect) -> None:
    """A function that always has another one gets its call sent once more, and no more."""
    made: list[str] = []

    def make() -> str:
        made.append(f"wrong{len(made)}")
        return made[-1]

    with pytest.raises(Unauthenticated):
        CALLS[call](connect(asking.target, tls=world.ca, token=make))
    first, second = asking.tokens.seen
    assert first == "Bearer wrong0"
    assert second != first


@pytest.mark.parametrize("call", CALLS)
def test_refused(call: str, world: World, asking: Secured, connect: Connect) -> None:
    """A call with a wrong token is not tried again; nor one of who may not do what it asks."""
    client = connect(asking.target, tls=world.ca, token="wrong")
    with pytest.raises(Unauthenticated) as caught:
        CALLS[call](client)
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.message == "the token is not known"
    asking.tokens.code, asking.tokens.words = grpc.StatusCode.PERMISSION_DENIED, "not for you"
    with pytest.raises(PermissionDenied, match="PERMISSION_DENIED: not for you"):
        CALLS[call](client)
    assert len(asking.tokens.seen) == 2


def test_without_any(world: World, asking: Secured, connect: Connect) -> None:
    """Who has no token is told how to give one."""
    with pytest.raises(Unauthenticated) as caught:
        connect(asking.target, tls=world.ca).encode(X)
    assert caught.value.message == (
        "the token is not known (the client has no token: give it as token=, --token-file or "
        "BILSTM_TOKEN)"
    )


def test_stream_goes_on_with_the_newest(
    world: World, asking: Secured, connect: Connect, quick: None
) -> None:
    """A stream that connects again carries the token of that time."""
    asking.echo.breaks = [Break(replies=2)]
    newest = iter(("one", "two"))
    client = connect(asking.target, tls=world.ca, token=lambda: next(newest))
    for encoding in client.encode_stream([X, X], in_flight=1):
        assert_states(encoding, sums(X))
    assert asking.tokens.seen == ["Bearer one", "Bearer two"]


def test_refused_in_the_middle(world: World, asking: Secured, connect: Connect) -> None:
    """What had been sent with a token that is refused is sent again; what was read from an iterator
    can't be, which is said of its sequence alone; and who has no other token is told only that."""
    asking.tokens.read_first = 3

    def stream(*tokens: str) -> list[Any]:
        newest = iter(tokens)
        client = connect(asking.target, tls=world.ca, token=lambda: next(newest))
        source = [iter([X[:3], X[3:]]), X]
        return list(client.encode_stream(source, on_error="return", in_flight=1))

    lost, encoding = stream("old", "one", "two")
    assert isinstance(lost, Unavailable)
    assert "the server was lost (the token is not known), and sequences[0] was given" in str(lost)
    assert_states(encoding, sums(X))
    with pytest.raises(Unauthenticated, match="the token is not known"):
        stream("old", "old")


@pytest.mark.parametrize("call", CALLS)
def test_function_that_fails(call: str, world: World, asking: Secured, connect: Connect) -> None:
    """What a token function raises, or returns in place of one, is an Unauthenticated that has it
    as its cause, and nothing is sent."""
    error = OSError("s3cret")

    def fail() -> str:
        raise error

    words = "no token could be had: token(): it raised OSError"
    with pytest.raises(Unauthenticated, match=re.escape(words)) as caught:
        CALLS[call](connect(asking.target, tls=world.ca, token=fail))
    assert caught.value.__cause__ is error
    assert "s3cret" not in str(caught.value)
    for wrong, said in ((None, "must be a str, got NoneType"), ("a b", "must be printable ASCII")):
        with pytest.raises(Unauthenticated, match=said):
            CALLS[call](connect(asking.target, tls=world.ca, token=lambda wrong=wrong: wrong))
    assert not asking.tokens.seen


# -- swapped under load -------------------------------------------------------------------------


def test_swapped_under_load(world: World, connect: Connect, tmp_path: Path) -> None:
    """A token is swapped 20 times, and the one before is refused from that moment on: no call and
    no stream fails."""
    file, done, counts = tmp_path / "token", Event(), dict.fromkeys(("encode", "encode_stream"), 0)
    file.write_text("0")

    def load(client: AnyClient, name: str) -> None:
        while not done.is_set():
            CALLS[name](client)
            counts[name] += 1

    with secured(world.issue("127.0.0.1"), "0") as server, ThreadPoolExecutor() as pool:
        client = connect(server.target, tls=world.ca, token=file)
        running = [pool.submit(load, client, name) for name in counts]
        for number in range(1, 21):
            # Each has made a call since the last swap, so that none meets two.
            enough = {name: count + 2 for name, count in counts.items()}
            while any(counts[name] < enough[name] for name in counts):
                assert not any(map(Future.done, running))
                done.wait(0.001)
            swap(file, str(number))
            server.tokens.good = {str(number)}
        done.set()
        for run in running:
            run.result(HANGS_AFTER_SECONDS)
    assert {f"Bearer {number}" for number in range(20)} <= set(server.tokens.seen)
