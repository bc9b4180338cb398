"""How a stream ends: its source fails, or the caller leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, cast

import grpc
import pytest
from client_streams import (
    AwaitedStreams,
    SourceError,
    Streams,
    X,
    ended,
    own_tasks,
    sequence,
    source_threads,
)
from client_streams import client as client
from client_streams import connect as connect
from client_streams import fake as fake
from client_streams import faked as faked
from conftest import RunningServer
from streaming import HANGS_AFTER_SECONDS, FakeServer, serving

from bilstm_client import (
    AsyncClient,
    Cancelled,
    Client,
    EncoderError,
    NotAnArray,
)
from bilstm_client.types import Array, Encoding


@pytest.mark.parametrize("where", ["source", "chunks", "iter"])
@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_source_that_raises(
    where: str, on_error: Any, faked: Streams, fake: FakeServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """An exception of the source's own ends the stream, and is raised as it is."""
    error, cause = SourceError("mine"), ValueError("its cause")
    error.__cause__ = cause

    def chunks() -> Iterator[Array]:
        yield X
        raise error

    def source() -> Iterator[Any]:
        yield X
        if where == "chunks":
            yield chunks()
            yield X
        raise error

    class NoSource:
        def __iter__(self) -> Iterator[Any]:
            raise error

    given: Any = NoSource() if where == "iter" else source()
    with pytest.raises(SourceError) as caught:
        list(faked.encode_stream(given, on_error=on_error))
    assert caught.value is error
    assert error.__cause__ is cause
    assert not isinstance(error.__context__, grpc.RpcError | EncoderError)
    ended(fake)
    assert capfd.readouterr() == ("", "")


class Raising:
    """Gives what it is told, and then raises, in whatever thread it is iterated."""

    def __init__(self, error: BaseException, *items: Any):
        self._error = error
        self._items = list(items)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._items:
            return self._items.pop(0)
        raise self._error


class Boom(BaseException):
    pass


ODD_ERRORS = [Boom, GeneratorExit, SystemExit, KeyboardInterrupt, asyncio.CancelledError]


@pytest.mark.parametrize("error", [kind("mine") for kind in ODD_ERRORS], ids=repr)
@pytest.mark.parametrize("in_chunks", [False, True])
async def test_odd_errors(error: BaseException, in_chunks: bool, fake: FakeServer) -> None:
    """Whatever the source raises, or a sequence's chunks, ends the stream, and is raised."""

    def source() -> Raising:
        raising = Raising(error, X)
        return Raising(StopIteration(), raising) if in_chunks else raising

    def caught(run: Callable[[], Any]) -> BaseException | None:
        try:
            run()
        except BaseException as caught:
            return caught
        return None

    with serving(fake) as target:
        with Client(target) as client:
            stream = client.encode_stream(source())
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                assert await asyncio.to_thread(caught, lambda: list(stream)) is error
        async with AsyncClient(target) as aio, asyncio.timeout(HANGS_AFTER_SECONDS):
            results = aio.encode_stream(source())
            with pytest.raises(type(error)) as raised:
                [encoding async for encoding in results]
            assert raised.value is error


async def test_cancelled_at_once(fake: FakeServer) -> None:
    """A task that is cancelled is, though the source fails at the same moment."""

    async def source() -> AsyncIterator[Array]:
        yield X
        await answered.wait()
        task.cancel()
        raise SourceError

    async def run() -> None:
        async for _ in client.encode_stream(source()):
            answered.set()

    answered = asyncio.Event()
    with serving(fake) as target:
        async with AsyncClient(target) as client:
            task = asyncio.create_task(run())
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_async_sources_are_closed(in_chunks: bool, fake: FakeServer) -> None:
    """An async generator is closed when its stream is, though someone else has it, too."""
    begun, closed = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[Array]:
        try:
            while True:
                begun.set()
                yield X
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)  # as a file's, or a connection's
            closed.set()

    held = endless()
    source: Any = [X, held] if in_chunks else held
    with serving(fake) as target:
        async with AsyncClient(target) as client:
            results = client.encode_stream(source, in_flight=3)
            async with aclosing(results):
                async for _ in results:
                    await begun.wait()
                    break
            assert closed.is_set()


async def test_refused_chunks_are_closed(server: RunningServer) -> None:
    """So are the chunks of a sequence that is refused."""
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[Any]:
        try:
            while True:
                yield "no numbers"
        finally:
            closed.set()

    held = chunks()
    async with AsyncClient(server.target) as client:
        results = [result async for result in client.encode_stream([held, X], on_error="return")]
    assert [type(result) for result in results] == [NotAnArray, Encoding]
    assert closed.is_set()


def test_made_outside_of_a_loop(server: RunningServer) -> None:
    """A stream of `AsyncClient` belongs to the loop in which it is iterated."""
    client = AsyncClient(server.target)
    results = client.encode_stream([X])

    async def run() -> list[Any]:
        async with client:
            return [encoding async for encoding in results]

    assert len(asyncio.run(run())) == 1


def test_no_source(faked: Streams) -> None:
    """What can't be iterated is a TypeError."""
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        list(faked.encode_stream(cast(Any, 5)))


def test_break(faked: Streams, fake: FakeServer, capfd: pytest.CaptureFixture[str]) -> None:
    """To leave the loop cancels the call, and leaves nothing behind."""
    results = faked.encode_stream((sequence(3, i) for i in range(10**9)), in_flight=3)
    for _ in results:
        break
    results.close()
    for thread in source_threads():  # it may just be in the source
        thread.join(HANGS_AFTER_SECONDS)
    assert source_threads() == set()
    ended(fake)
    if isinstance(faked, AwaitedStreams):
        assert own_tasks(faked) == set()
    assert capfd.readouterr() == ("", "")


def test_break_while_the_source_blocks(server: RunningServer) -> None:
    """A source that blocks keeps nobody from leaving; its thread ends when it does."""
    gate, blocks = threading.Event(), threading.Event()

    def source() -> Iterator[Array]:
        yield X
        blocks.set()
        gate.wait(HANGS_AFTER_SECONDS)

    with Client(server.target) as client:
        for _ in client.encode_stream(source()):
            assert blocks.wait(HANGS_AFTER_SECONDS)
            break
    (puller,) = source_threads()
    gate.set()
    puller.join(HANGS_AFTER_SECONDS)
    assert not puller.is_alive()


async def test_cancelled_task(fake: FakeServer) -> None:
    """A task that is cancelled in its stream leaves nothing behind, and its source is closed."""
    closed = asyncio.Event()

    async def source() -> AsyncIterator[Array]:
        try:
            yield X
            await asyncio.Event().wait()
        finally:
            closed.set()

    with serving(fake) as target:
        async with AsyncClient(target) as client:

            async def run() -> None:
                async for _ in client.encode_stream(source()):
                    answered.set()

            answered = asyncio.Event()
            task = asyncio.create_task(run())
            await answered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                await closed.wait()
                await asyncio.to_thread(ended, fake)


async def test_closed_in_an_async_source(fake: FakeServer) -> None:
    """So it is with `AsyncClient`."""
    with serving(fake) as target:
        client = AsyncClient(target)

        async def source() -> AsyncIterator[Array]:
            yield X
            await client.close()
            yield X

        results = client.encode_stream(source(), in_flight=1)
        with pytest.raises(Cancelled, match="the client was closed"):
            [encoding async for encoding in results]
