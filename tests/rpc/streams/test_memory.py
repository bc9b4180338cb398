"""What streams may hold: never more than the bounds, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.rpc.encoder.streams.memory import (
    NoRoom,
    StreamMemory,
    StreamRoom,
)
from bilstm_server.settings import StreamLimits
from tests.support.lstms import examples
from tests.support.waiting import HANGS_AFTER_SECONDS


def memory(
    max_stream_bytes: int = 100,
    max_stream_sequences: int = 3,
    max_streams_bytes: int = 200,
    stream_idle_seconds: float = 300.0,
) -> StreamMemory:
    return StreamMemory(
        StreamLimits(
            max_stream_bytes=max_stream_bytes,
            max_stream_sequences=max_stream_sequences,
            max_streams_bytes=max_streams_bytes,
            stream_idle_seconds=stream_idle_seconds,
        )
    )


async def fill(room: StreamRoom, size: int, last: bool = False) -> None:
    """One complete sequence; `last`: that it would be was known when it came."""
    await room.begin()
    await asyncio.wait_for(room.take(size, last), HANGS_AFTER_SECONDS)
    room.complete(size)


async def settled(task: asyncio.Future[Any]) -> bool:
    """Whether it gets as far as its end without anything happening."""
    for _ in range(10):
        await asyncio.sleep(0)
    return task.done()


Sizes = st.lists(st.integers(1, 100), min_size=1, max_size=4)  # of a sequence's parts
Streams = st.lists(st.lists(Sizes, max_size=5), min_size=1, max_size=6)


@given(streams=Streams, total=st.integers(100, 400), delays=st.lists(st.integers(0, 5)))
@examples(200)
def test_bounds_hold_and_everyone_finishes(
    streams: list[list[list[int]]], total: int, delays: list[int]
) -> None:
    """Streams that send their sequences part by part, each as large as a stream may hold at the
    most, all finish whatever the room of all together, and never hold more than it."""
    shared = memory(100, 1_000, total)

    async def pause(index: int) -> None:
        for _ in range(delays[index % len(delays)] if delays else 0):
            await asyncio.sleep(0)

    async def answer(room: StreamRoom, size: int) -> None:
        await pause(size)
        room.give(size, sequences=1)

    async def send(index: int, sequences: list[list[int]]) -> None:
        room = shared.open()
        answers = []
        for parts in sequences:
            if sum(parts) > 100:
                continue  # refused by itself
            await room.begin()
            for size in parts:
                await pause(index)
                await room.take(size)
                assert room.used <= 100
                assert shared.used <= total
            room.complete(sum(parts))
            answers.append(asyncio.create_task(answer(room, sum(parts))))
        await asyncio.gather(*answers)
        assert room.used == room.sequences == 0
        room.close()

    async def send_all() -> None:
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            await asyncio.gather(*(send(i, sequences) for i, sequences in enumerate(streams)))

    asyncio.run(send_all())
    assert shared.used == 0


async def test_a_stream_waits_for_its_own_results() -> None:
    """Beyond its bound it waits until something that is complete has been sent."""
    room = memory().open()
    await fill(room, 60)
    await room.begin()
    waiting = asyncio.create_task(room.take(50))
    assert not await settled(waiting)
    room.give(60, sequences=1)
    await waiting
    assert room.used == 50


async def test_waiting_would_not_help() -> None:
    """Where all that a stream holds is half-sent, it is told so instead."""
    room = memory().open()
    await room.begin()
    await room.take(60)
    await room.begin()
    with pytest.raises(NoRoom):
        await room.take(41)
    await room.take(40)
    await room.begin()
    with pytest.raises(NoRoom):
        await room.begin()
    room.complete(40)
    another = asyncio.create_task(room.begin())
    assert not await settled(another)
    room.give(40, sequences=1)
    await another


async def test_the_reserve_goes_from_one_to_the_next() -> None:
    """Of the streams that wait, one has what is kept for it, until it holds nothing half-sent."""
    shared = memory(max_streams_bytes=150)  # 50, and 100 for the favoured one
    first, second = shared.open(), shared.open()
    await first.begin()
    await second.begin()
    await first.take(40)
    await first.take(40)  # with the reserve
    waiting = asyncio.create_task(second.take(60))
    assert not await settled(waiting)
    await first.take(20)
    first.complete(100)
    assert not await settled(waiting)  # favoured now, but there is no room yet
    first.give(100, sequences=1)
    await waiting
    assert shared.used == 60


async def test_who_leaves_while_waiting_takes_nothing() -> None:
    """A stream that is closed while it waits takes nothing, and the next one has what it waited
    for."""
    shared = memory(max_streams_bytes=100)
    first, second, third = shared.open(), shared.open(), shared.open()
    await fill(first, 100)
    await second.begin()
    leaving = asyncio.create_task(second.take(80))
    staying = asyncio.create_task(fill(third, 80))
    assert not await settled(leaving)
    leaving.cancel()
    second.close()
    first.close()
    await staying
    assert shared.used == 80


async def test_the_reserve_is_not_kept_where_it_does_not_suffice() -> None:
    """Who waits for more than there is does not keep the others from it; nor does a stream that
    has the reserve and does not use it."""
    shared = memory()
    first, second, third, fourth = (shared.open() for _ in range(4))
    for room in (first, second, third):
        await room.begin()
    await first.take(100)
    await second.take(60)  # of the reserve
    waiting = asyncio.create_task(third.take(50))
    assert not await settled(waiting)
    await fill(fourth, 40, last=True)
    assert shared.used == 200
    fourth.give(40, sequences=1)
    first.close()
    await asyncio.wait_for(waiting, HANGS_AFTER_SECONDS)
    assert shared.used == 110


async def test_who_waits_for_the_reserve_is_not_passed_for_ever() -> None:
    """After a while what comes free is kept for it."""
    shared = memory(stream_idle_seconds=1e-9)
    first, second, third = (shared.open() for _ in range(3))
    for room in (first, second):
        await room.begin()
    await first.take(100)
    waiting = asyncio.create_task(second.take(60))
    await asyncio.wait_for(waiting, HANGS_AFTER_SECONDS)
    fourth = shared.open()
    await fourth.begin()
    long = asyncio.create_task(fourth.take(50))
    assert not await settled(long)
    short = asyncio.create_task(fill(third, 10, last=True))
    assert not await settled(short)
    first.close()
    await asyncio.wait_for(asyncio.gather(long, short), HANGS_AFTER_SECONDS)


async def test_what_may_have_no_end_is_not_in_the_reserve() -> None:
    """A live sequence waits for room beside it, so that others can still complete theirs."""
    shared = memory()
    live, another, whole = (shared.open() for _ in range(3))
    for room in (live, another):
        await room.begin()
    await live.take(90, stays=True)
    waiting = asyncio.create_task(another.take(20, stays=True))
    assert not await settled(waiting)
    await fill(whole, 100)
    assert shared.used == 190
    whole.give(100, sequences=1)
    assert not await settled(waiting)
    live.close()
    await asyncio.wait_for(waiting, HANGS_AFTER_SECONDS)


@given(
    streams=Streams,
    total=st.integers(100, 400),
    stalls=st.lists(st.integers(0, 3), max_size=6),
)
@examples(200)
def test_those_that_stand_still_are_all_that_must_end(
    streams: list[list[list[int]]], total: int, stalls: list[int]
) -> None:
    """Where some streams stop after some parts, and are closed when nothing else moves, all others
    finish, and the bounds hold."""
    shared = memory(100, 1_000, total)
    stopped: list[StreamRoom] = []

    async def send(index: int, sequences: list[list[int]]) -> None:
        room = shared.open()
        parts_left = stalls[index] if index < len(stalls) else 1_000
        for parts in sequences:
            if sum(parts) > 100:
                continue
            await room.begin()
            for number, size in enumerate(parts):
                if not parts_left:
                    stopped.append(room)
                    return
                parts_left -= 1
                await room.take(size, last=number == len(parts) - 1)
                assert room.used <= 100
                assert shared.used <= total
            room.complete(sum(parts))
            asyncio.get_running_loop().call_soon(room.give, sum(parts), 1)
        asyncio.get_running_loop().call_soon(room.close)

    async def send_all() -> None:
        tasks = [asyncio.create_task(send(i, own)) for i, own in enumerate(streams)]
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            while not all(task.done() for task in tasks):
                if not await settled(asyncio.gather(*tasks)) and stopped:
                    stopped.pop().close()
            await asyncio.gather(*tasks)

    asyncio.run(send_all())
    for room in stopped:
        room.close()
    assert shared.used == 0
