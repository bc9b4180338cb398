"""`SyncStream`: a stream of `Client`. Four threads share its `Stream`, by one lock: the caller's,
which reads replies; one that pulls from the source; one that sees to it that the server lives; and
gRPC's own, which sends what there is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any

import grpc

from bilstm.v1 import encoder_pb2 as pb

from .._calls.blocking import BlockingChannel
from ..errors import Unauthenticated
from ..types import Metadata
from .entries import Entry
from .options import StreamOptions
from .runner import ENDS_CALL, StreamRunner
from .sending import Sending
from .silence import Action
from .stream import Stream


class SyncStream(StreamRunner):
    """A running stream of `Client`; see the module for its threads."""

    def __init__(
        self,
        channel: BlockingChannel,
        options: StreamOptions,
        source: Iterable[Any],
        timeout_seconds: float | None,
        metadata: Metadata | None,
    ):
        call = channel.session.begin(timeout_seconds, metadata)
        has_length = hasattr(source, "__len__")
        super().__init__(channel.session, call, Stream(options, call.timeout_seconds, has_length))
        self._channel = channel
        self._source = source
        self._changed = threading.Condition()  # guards the stream, and all below
        self._reports = threading.Lock()  # one at a time, and not under the other lock
        self._call: Any = None
        self._in_source = True
        # A source that blocks for ever must not keep the process from its end.
        self._puller = threading.Thread(target=self._pull, name="bilstm-source", daemon=True)
        self._question: grpc.Future[Any] | None = None
        self._ends = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="bilstm-watch", daemon=True)

    # -- the caller's thread

    def results(self) -> Generator[Any, None, None]:
        """What the caller iterates. The stream begins with the first result that is asked for, and
        ends with the generator."""
        self._session.check_process()
        self._channel.streams.add(self)
        self._puller.start()
        self._watcher.start()
        try:
            while not self._stream.is_finished:
                self._connect()
                while (response := self._next()) is not None:
                    with self._changed:
                        received = self._stream.receive(response, time.monotonic())
                        self._changed.notify_all()
                    self._report()
                    for entry, value in received:
                        self._session.check_process()
                        yield self._stream.result(entry, value)
        finally:
            if not self._session.is_inherited:
                self._channel.streams.discard(self)
                with self._changed:
                    self._stopped = True
                    self._stream.close()
                self.end()

    def end(self) -> None:
        """End the threads: the caller has left, or the client is closed."""
        with self._changed:
            self._stream.stop()
            self._changed.notify_all()
            in_source = self._in_source
        if self._call is not None:
            self._call.cancel()
        self._ends.set()
        if self._question is not None:
            self._question.cancel()
        ended = [self._watcher] if in_source else [self._watcher, self._puller]
        for thread in ended:
            if thread is not threading.current_thread():
                thread.join()

    def _connect(self) -> None:
        self._session.check_process()  # before the lock, which a fork may have caught
        with self._changed:
            self._check()
            sending = self._stream.begin_call()
        # Not the generator itself: gRPC drops what it was given when the call is over, and only so
        # is that no GeneratorExit of the caller's chunks.
        requests = iter(partial(self._request, sending, self._requests(sending)), None)
        headers = self._next_headers()
        try:
            with self._calling():
                call = self._channel.open_stream(requests, headers)
        except ValueError:  # the channel is closed
            self._check()
            raise
        with self._changed:
            self._call = call
            self._check()

    def _next(self) -> pb.EncodeStreamResponse | None:
        """The next reply. None: the call is over, and if more is owed another one is to be made."""
        response: pb.EncodeStreamResponse | None = None
        ended = None
        self._session.check_process()
        self._is_reading = True
        try:
            with self._calling():
                response = next(self._call, None)
        except ENDS_CALL as error:
            ended = error
        finally:
            self._is_reading = False
        if isinstance(ended, Unauthenticated):
            self._renew(ended)
        with self._changed:
            if seconds := self._pause_after(response, ended):
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_over, seconds)
                self._check()
        return response

    def _report(self) -> None:
        if self._stream.options.progress is not None:
            with self._reports:
                with self._changed:
                    progress = self._stream.progress()
                self._stream.options.progress(progress)

    # -- the thread that sees to it that the server lives

    def _watch(self) -> None:
        silence = self._stream.silence
        while not self._ends.wait(silence.look_seconds):
            with self._changed:
                action = self._stream.look(time.monotonic(), self._is_reading)
            if action is Action.ASK and self._is_alive(silence.ask_seconds):
                with self._changed:
                    silence.heard(time.monotonic())
            elif action is Action.GIVE_UP:
                self._fail(self._given_up())

    def _is_alive(self, seconds: float) -> bool:
        try:
            self._question = self._channel.ask(seconds, self._options.sent_headers())
            return not self._ends.is_set() and self._question.exception() is None
        except Exception:  # grpc's own, of many kinds: it was cancelled, or the client is closed
            return False

    # -- the source's thread

    def _pull(self) -> None:
        ended = False
        try:
            items = iter(self._source)
            while self._has_room():
                try:
                    item = next(items)
                except StopIteration:
                    ended = True
                    break
                with self._changed:
                    self._stream.add(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._fail(error)
        with self._changed:
            self._in_source = False
            self._stream.ended = ended
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait until another sequence may be pulled; False if none is wanted any more."""
        with self._changed:
            self._in_source = False
            self._changed.wait_for(lambda: self._is_over or self._stream.has_room)
            self._in_source = not self._is_over
            return self._in_source

    def _fail(self, error: BaseException, sending: Sending | None = None) -> None:
        """The caller's own code has raised. If it did so for a call that is over, that is no matter
        of the next one."""
        with self._changed:
            if self._is_over or (sending is not None and sending.stopped):
                return
            self._failure = error
            self._changed.notify_all()
            call = self._call
        if call is not None:
            call.cancel()

    # -- gRPC's thread, one per call

    def _request(self, sending: Sending, requests: Iterator[bytes]) -> bytes | None:
        """The call's next request; None: no more."""
        try:
            if sending.is_writing:
                sending.wrote()
                self._report()
            request = next(requests, None)
            if request is not None:
                sending.writes()
            return request
        except BaseException as error:  # of the chunks of a sequence; gRPC would print it
            self._fail(error, sending)
            return None

    def _requests(self, sending: Sending) -> Iterator[bytes]:
        yield self._stream.options.opening()
        while self._wait_for_unsent(sending):
            while (entry := self._take(sending)) is not None:
                yield from _messages(sending, entry)
            yield from sending.flush()

    def _wait_for_unsent(self, sending: Sending) -> bool:
        """Wait for something to send; False if there will be nothing more."""
        stream = self._stream
        with self._changed:
            self._changed.wait_for(
                lambda: stream.has_unsent(sending) or stream.has_no_more(sending)
            )
            return stream.has_unsent(sending)

    def _take(self, sending: Sending) -> Entry | None:
        with self._changed:
            return self._stream.take(sending)


def _messages(sending: Sending, entry: Entry) -> Iterator[bytes]:
    if not entry.in_chunks:
        yield from sending.array(entry)
        return
    yield from sending.flush()  # each chunk may be long in coming
    if not hasattr(entry.sequence, "__iter__"):
        sending.refuse(entry, "an async iterable needs an AsyncClient")
    if not sending.is_over(entry):
        for chunk in entry.sequence:
            yield from sending.chunk(entry, chunk)
            if sending.is_over(entry):
                break
    sending.end(entry)
