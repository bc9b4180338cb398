"""Both clients, called alike: each claim is made of `Client` and of `AsyncClient`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, TypeVar

from bilstm_client import (
    AsyncClient,
    Client,
    Encoding,
    Model,
)
from tests.support.waiting import HANGS_AFTER_SECONDS

T = TypeVar("T")
END = object()


class AwaitedClient:
    """`AsyncClient` called as `Client` is, from any thread; its loop has a thread of its own.

    Its streams are iterated as `Client`'s are.
    """

    def __init__(self, target: str, **options: Any):
        self._client = AsyncClient(target, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _wait(self, call: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await call

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(HANGS_AFTER_SECONDS)

    def _iterate(
        self, begin: Callable[[], AsyncGenerator[Any, None]]
    ) -> Generator[Any, None, None]:
        async def begun() -> AsyncGenerator[Any, None]:
            return begin()

        results = self._wait(begun())  # what it is told wrongly, it says at once

        def iterate() -> Generator[Any, None, None]:
            try:
                while (result := self._wait(anext(results, END))) is not END:
                    yield result
            finally:
                self._wait(results.aclose())

        return iterate()

    def encode(self, sequence: Any, **options: Any) -> Encoding:
        return self._wait(self._client.encode(sequence, **options))

    def encode_batch(self, sequences: Any, **options: Any) -> list[Encoding]:
        return self._wait(self._client.encode_batch(sequences, **options))

    def encode_stream(self, source: Any, **options: Any) -> Generator[Any, None, None]:
        return self._iterate(lambda: self._client.encode_stream(source, **options))

    def encode_chunks(self, source: Any, **options: Any) -> Generator[Any, None, None]:
        return self._iterate(lambda: self._client.encode_chunks(source, **options))

    def list_models(self, **options: Any) -> list[Model]:
        return self._wait(self._client.list_models(**options))

    def is_ready(self, **options: Any) -> bool:
        return self._wait(self._client.is_ready(**options))

    def wait_until_ready(self, *seconds: float, **options: Any) -> None:
        self._wait(self._client.wait_until_ready(*seconds, **options))

    def get_model(self, *names: str, **options: Any) -> Model:
        return self._wait(self._client.get_model(*names, **options))

    def close(self) -> None:
        self._wait(self._client.close())

    def __enter__(self) -> AwaitedClient:
        self._wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.__aexit__(None, None, None))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


AnyClient = Client | AwaitedClient
Connect = Callable[..., AnyClient]
