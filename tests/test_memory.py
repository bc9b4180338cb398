"""What streams may hold: never more than the bounds, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest
from engines import HANGS_AFTER_SECONDS
from hypothesis import given
from hypothesis import strategies as st
from lstms import examples

from bilstm_server.batching.memory import MemoryLimits, NoRoom, StreamMemory, StreamRoom


def memory(
    max_stream_bytes: int = 100, max_stream_sequences: int = 3, max_streams_bytes: int = 200
) -> StreamMemory:
    return StreamMemory(MemoryLimits(max_stream_bytes, max_stream_sequences, max_streams_bytes))


async def fill(room: StreamRoom, size: int) -> None:
    """One complete sequence."""
    await room.begin()
    await room.take(size)
    room.complete(size)


async def settled(task: asyncio.Task[None]) -> bool:
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
