"""How far a stream has come: what `progress` of both clients is called with, and when."""

from __future__ import annotations

import itertools
import threading
from typing import Any, cast

import pytest
from client_streams import Streams, X, sequence
from client_streams import connect as connect
from client_streams import fake as fake
from client_streams import faked as faked
from client_streams import quick as quick
from streaming import Break, FakeServer, serving

from bilstm_client import (
    Client,
    Progress,
)


def test_progress_of_one_long_sequence(faked: Streams, fake: FakeServer) -> None:
    """Its steps are counted as they are sent, and as their states arrive; counts never fall."""
    fake.reply_steps = 20_000
    seen: list[Progress] = []
    long = sequence(100_000)
    (encoding,) = faked.encode_stream([long], progress=seen.append)
    assert len(encoding.states) == len(long)
    assert seen[-1] == Progress(sequences_done=1, steps_sent=100_000, steps_done=100_000)
    assert [p.steps_done for p in seen if p.steps_done] == [20_000, 40_000, 60_000, 80_000, 100_000]
    assert len({p.steps_sent for p in seen}) > 5
    for one, other in itertools.pairwise(seen):
        assert one.steps_sent <= other.steps_sent
        assert one.steps_done <= other.steps_done


def test_progress_before_its_results(faked: Streams) -> None:
    """When a result is yielded, progress has counted it: a refused sequence, too."""
    seen: list[Progress] = []
    source = [X, sequence(3), X[:0], sequence(4)]
    results = faked.encode_stream(source, on_error="return", progress=seen.append)
    for count, _ in enumerate(results, 1):
        assert seen[-1].sequences_done >= count
    assert seen[-1] == Progress(4, len(X) + 7, len(X) + 7)


@pytest.mark.usefixtures("quick")
def test_progress_over_a_lost_server(faked: Streams, fake: FakeServer) -> None:
    """What is sent again counts once."""
    seen: list[Progress] = []
    fake.breaks = [Break(replies=3)]
    long = sequence(30_000)  # several messages
    list(faked.encode_stream([long] * 4, progress=seen.append))
    assert len(fake.calls) == 2
    for counts in ([p.steps_sent for p in seen], [p.steps_done for p in seen]):
        assert counts == sorted(counts)
    assert seen[-1] == Progress(4, 4 * len(long), 4 * len(long))


def test_progress_that_raises(faked: Streams) -> None:
    """What the function raises ends the stream, as it is."""
    with pytest.raises(ZeroDivisionError):
        list(faked.encode_stream([X] * 100, progress=lambda _: print(1 / 0)))
    with pytest.raises(TypeError, match="progress must be a function"):
        faked.encode_stream([X], progress=cast(Any, 7))


def test_progress_one_at_a_time(fake: FakeServer) -> None:
    """While one of `Client`'s threads is in the function, no other one calls it."""
    caller, overlapped = threading.current_thread(), threading.Event()
    inside: list[int] = []
    waited: list[bool] = []

    def slow(progress: Progress) -> None:
        if inside:
            overlapped.set()
        if progress.steps_sent and threading.current_thread() is not caller:
            inside.append(1)
            waited.append(overlapped.wait(0.2))  # by now the reply has come
            inside.clear()

    with serving(fake) as target, Client(target) as client:
        assert len(list(client.encode_stream([X], progress=slow))) == 1
    assert waited == [False]
