"""Calls and streams against servers that refuse: tried again, and never more than helps."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from bilstm_client import EncoderError, Unavailable
from bilstm_client._calls.retries import Attempts, Retries
from tests.client.clients import AnyClient, Connect
from tests.client.connections.refusing import refusing
from tests.client.streams.sources import X


def unavailable(said: float | None = None) -> Unavailable:
    error = Unavailable(grpc.StatusCode.UNAVAILABLE, "no")
    error.retry_after_seconds = said
    return error


def test_one_at_a_time() -> None:
    """While a server fails, one call tries again, in pauses that grow; once it serves, all do."""
    retries = Retries(spread=lambda low, high: 1.0)
    calls = [Attempts(retries, 1000.0) for _ in range(100)]
    for call in calls:
        call.failed(unavailable(), 0.0)
    assert not any(call.pause(0.09) == 0 for call in calls)
    for now in (0.11, 0.32, 0.73, 1.24, 1.75):
        tried = [call for call in calls if call.pause(now) == 0]
        assert len(tried) == 1
        tried[0].failed(unavailable(), now)
        assert not any(call.pause(now + 0.01) == 0 for call in calls)
    retries.served()
    assert all(call.pause(1.8) == 0 for call in calls)


def test_patience_of_a_call() -> None:
    """A call waits for three seconds, and ends with the last error."""
    call = Attempts(Retries(), 1000.0)
    first, second = unavailable(), unavailable()
    call.failed(first, 10.0)
    while call.pause(12.9):
        pass
    call.failed(second, 12.9)
    with pytest.raises(Unavailable) as caught:
        call.pause(13.0)
    assert caught.value is second


def test_what_the_server_said() -> None:
    """No attempt comes before the server wants one, however long that is; and none is waited for
    that would come after the deadline."""
    call = Attempts(Retries(), 1000.0)
    call.failed(unavailable(20.0), 0.0)
    assert all(call.pause(now) > 0 for now in (0.1, 3.0, 10.0, 19.9))
    assert call.pause(24.0) == 0
    error = unavailable(30.0)
    with pytest.raises(Unavailable) as caught:
        Attempts(Retries(), 30.0).failed(error, 0.0)
    assert caught.value is error


def test_tokens() -> None:
    """Attempts again that fail use up what calls that are served have earned: a tenth each."""
    retries = Retries(spread=lambda low, high: 1.0)

    def attempts() -> int:
        """How many calls may have another attempt, if all of these fail."""
        count = 0
        while retries.failed(0.0, None, again=True):
            count += 1
        return count

    assert attempts() == 31
    assert not retries.failed(0.0, None, again=False)
    for _ in range(95):
        retries.served()
    assert retries.failed(0.0, None, again=False)
    assert attempts() == 8


def encode(client: AnyClient) -> bool:
    try:
        client.encode(X)
    except EncoderError:
        return False
    return True


def test_retries_do_not_amplify(connect: Connect) -> None:
    """320 calls of a server that always says UNAVAILABLE are hardly more attempts; and it takes
    calls as soon as it serves."""
    with refusing() as (server, port), ThreadPoolExecutor(160) as pool:
        client = connect(f"127.0.0.1:{port}")
        assert not any(pool.map(encode, [client] * 320))
        assert 320 < len(server.attempts) <= 320 + 33
        server.attempts.clear()
        server.serves = True
        assert all(pool.map(encode, [client] * 320))
        assert len(server.attempts) == 320


def test_restart_loses_no_call(connect: Connect) -> None:
    """However many calls a restart meets: each is served by the successor."""
    with refusing() as (server, port), ThreadPoolExecutor(100) as pool:
        client = connect(f"127.0.0.1:{port}")
        server.serves = True
        assert encode(client)
        server.serves = False
        calls = [pool.submit(encode, client) for _ in range(100)]
        while len(server.attempts) < 100:
            time.sleep(0.01)
        server.serves = True
        assert all(call.result() for call in calls)
        assert len(server.attempts) < 240


def test_said_delay_is_kept(connect: Connect) -> None:
    """A call, and a stream, come again no sooner than they were told."""
    for call in (lambda c: c.encode(X), lambda c: list(c.encode_stream([X]))):
        with refusing() as (server, port):
            server.says = 0.4
            client = connect(f"127.0.0.1:{port}", timeout_seconds=1.5)
            with pytest.raises(EncoderError):
                call(client)
            assert len(server.attempts) >= 2
            pauses = np.diff(server.attempts)
            assert min(pauses) >= 0.39


def test_said_delay_beyond_the_timeout(connect: Connect) -> None:
    """Where they are told to come after their time, that is their end at once."""
    for call in (lambda c: c.encode(X), lambda c: list(c.encode_stream([X]))):
        with refusing() as (server, port):
            server.says = 0.9
            with pytest.raises(Unavailable) as caught:
                call(connect(f"127.0.0.1:{port}", timeout_seconds=0.8))
            assert caught.value.retry_after_seconds == pytest.approx(0.9)
            assert len(server.attempts) == 1


def test_closed_while_it_waits(connect: Connect) -> None:
    """To close the client ends the wait."""
    with refusing() as (server, port), ThreadPoolExecutor(1) as pool:
        client = connect(f"127.0.0.1:{port}")
        call = pool.submit(client.encode, X)
        while not server.attempts:
            time.sleep(0.01)
        client.close()
        with pytest.raises(EncoderError, match="the client was closed"):
            call.result()
