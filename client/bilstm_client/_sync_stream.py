"""`SyncStream`: a stream of `Client`. Three threads share its `Stream`, by one lock: the caller's,
which reads replies; one that pulls from the source; and gRPC's own, which sends what there is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from bilstm.v1 import encoder_pb2 as pb

from ._base import BaseClient
from ._entries import Entry, chunks_of
from ._sending import Sending
from ._stream import Stream
from .errors import Cancelled, Unavailable

OpenCall = Callable[[Iterator[bytes]], "Iterator[pb.EncodeStreamResponse]"]


class SyncStream:
    def __init__(
        self, client: BaseClient, open_call: OpenCall, stream: Stream, source: Iterable[Any]
    ):
        self._client = client
        self._open_call = open_call
        self._source = source
        self._changed = threading.Condition()  # guards all below
        self._stream = stream
        self._call: Any = None
        self._failure: BaseException | None = None  # of the source
        self._stopped = False
        self._in_source = True
        # A source that blocks for ever must not keep the process from its end.
        self._puller = threading.Thread(target=self._pull, name="bilstm-source", daemon=True)

    # -- the caller's thread

    def results(self) -> Generator[Any, None, None]:
        self._puller.start()
        try:
            while not self._stream.is_finished:
                self._connect()
                while (response := self._next()) is not None:
                    with self._changed:
                        received = self._stream.receive(response, time.monotonic())
                        self._changed.notify_all()
                    for entry, value in received:
                        yield self._stream.result(entry, value)
        finally:
            self._stop()

    def _connect(self) -> None:
        with self._changed:
            sending = self._stream.begin_call()
        requests = self._requests(sending)
        with self._calling():
            call = self._open_call(requests)
        with self._changed:
            self._call = call
            self._check_source()

    def _next(self) -> pb.EncodeStreamResponse | None:
        """The next reply; None: the call is over, and if there is need another is to be made."""
        response: pb.EncodeStreamResponse | None = None
        lost: Unavailable | Cancelled | None = None
        try:
            with self._calling():
                response = next(self._call, None)
        except (Unavailable, Cancelled) as error:
            lost = error
        with self._changed:
            self._check_source()
            if lost is not None and not self._stream.is_finished:
                self._pause(lost)
            elif response is None:
                self._stream.check_finished()
        return response

    def _pause(self, lost: Unavailable | Cancelled) -> None:
        if self._client.is_closed:
            raise lost
        seconds = self._stream.interrupted(lost, time.monotonic())
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._failure is not None, seconds)
        self._check_source()

    def _check_source(self) -> None:
        """Outside of any handler: what the source has raised is raised as it is."""
        if self._failure is not None:
            raise self._failure

    def _calling(self) -> AbstractContextManager[None]:
        return self._client.calling(self._stream.options.encode.model_key)

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._stream.close()
            self._changed.notify_all()
            in_source = self._in_source
        if self._call is not None:
            self._call.cancel()
        if not in_source:
            self._puller.join()

    # -- the source's thread

    def _pull(self) -> None:
        try:
            items = iter(self._source)
            while self._has_room():
                try:
                    item = next(items)
                except StopIteration:
                    break
                with self._changed:
                    self._stream.add(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._fail(error)
        with self._changed:
            self._in_source = False
            self._stream.ended = self._failure is None
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait until another sequence may be pulled; False if none is wanted any more."""
        with self._changed:
            self._in_source = False
            self._changed.wait_for(lambda: self._stopped or self._stream.has_room)
            self._in_source = not self._stopped
            return self._in_source

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._stopped or self._failure is not None:
                return
            self._failure = error
            self._changed.notify_all()
            call = self._call
        if call is not None:
            call.cancel()

    # -- gRPC's thread, one per call

    def _requests(self, sending: Sending) -> Iterator[bytes]:
        try:
            yield self._stream.options.opening()
            while entries := self._take(sending):
                yield from _messages(sending, entries)
        except GeneratorExit:
            raise
        except BaseException as error:  # of the chunks of a sequence; gRPC would print it
            if not sending.stopped:
                self._fail(error)

    def _take(self, sending: Sending) -> list[Entry]:
        with self._changed:
            self._changed.wait_for(lambda: self._stream.has_unsent(sending))
            return self._stream.take(sending)


def _messages(sending: Sending, entries: list[Entry]) -> Iterator[bytes]:
    for entry in entries:
        sending.begin(entry)
        if not entry.in_chunks:
            yield from sending.array(entry)
            continue
        yield from sending.flush()  # each chunk may be long in coming
        for chunk in chunks_of(entry):
            yield from sending.chunk(entry, chunk)
            yield from sending.flush()
            if sending.is_over(entry):
                break
        sending.end(entry)
    yield from sending.flush()
