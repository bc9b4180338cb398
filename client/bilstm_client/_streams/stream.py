"""`Stream`: what a stream holds and decides, without any I/O, threads or clock: which sequences
are unanswered, which of them a call has yet to send, what a reply means, and whether to go on after
a broken connection. Both clients drive it: `threads` and `tasks`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import grpc

from bilstm.v1 import encoder_pb2 as pb

from .._calls.messages import named_infos
from ..errors import (
    EncoderError,
    NotTrusted,
    Overloaded,
    SequenceFailure,
    ServerError,
    Unavailable,
)
from ..types import EncodingChunk, OutputInfo, Progress
from .entries import Entry, check_is_no_chunk, entry_of
from .options import StreamOptions
from .patience import Patience
from .receiving import receive
from .sending import Sending
from .silence import Action, Silence


class Stream:
    """All sequences of a stream, each from when it is pulled until it is answered. Its owner calls
    it from one thread at a time."""

    def __init__(
        self, options: StreamOptions, timeout_seconds: float, source_has_length: bool = True
    ):
        self.options = options
        self._source_has_length = source_has_length  # it can't be a live input then
        self.ended = False  # whether the source has no more
        self._patience = Patience(timeout_seconds)
        self._pulled = self._released_steps = 0
        self._progress = Progress(0, 0, 0)
        self._entries: dict[int, Entry] = {}  # unanswered, in the source's order
        self._unsent: deque[Entry] = deque()  # entries that the present call has not begun to send
        self._sending = Sending()
        self._was_open = False  # whether any call was taken by a server
        self._is_open = False  # whether the present one was
        self._calls = self._replies = 0
        self._lost: EncoderError | None = None
        self.silence = Silence(timeout_seconds)
        self._served = ("", "")  # name and version of the model that answers
        self._infos: Mapping[str, OutputInfo] = {}  # of what was requested of it, by name

    # -- the source's side

    @property
    def has_room(self) -> bool:
        """Whether another sequence may be pulled."""
        return len(self._entries) < self.options.in_flight

    def add(self, item: Any) -> None:
        """A sequence, or a pair of its key and it, was pulled from the source."""
        entry = entry_of(self._pulled, item)
        if self.options.live is not None and not self._source_has_length:
            check_is_no_chunk(entry)
        self._pulled += 1
        self._entries[entry.index] = entry
        self._unsent.append(entry)

    # -- a call's side

    def begin_call(self) -> Sending:
        """Begin another call, which is to send all that is unanswered."""
        self.stop()
        self._is_open = False
        self._calls += 1
        self._sending = Sending()
        self._unsent = deque(entry for entry in self._entries.values() if not entry.answered)
        return self._sending

    def stop(self) -> None:
        """The call is over, and sends no more, wherever its sender is."""
        self._sending.stopped = True

    def has_unsent(self, sending: Sending) -> bool:
        """Whether the call has something to send: `take` it."""
        return bool(self._unsent) and not sending.stopped

    def has_no_more(self, sending: Sending) -> bool:
        """Whether the call will never have more to send, and is to end its side."""
        return sending.stopped or (self.ended and not self._unsent)

    def take(self, sending: Sending) -> Entry | None:
        """What the call is to send next, if anything. It is begun in the same step, so that no
        other call sends it, too."""
        if not self.has_unsent(sending):
            return None
        entry = self._unsent.popleft()
        sending.begin(entry)
        return entry

    @property
    def is_finished(self) -> bool:
        """Whether all that the source gave was answered, and it has no more."""
        return self.ended and not self._entries

    def check_finished(self) -> None:
        """The server has ended its side: raises a `ServerError` if it has not answered all."""
        if not self.is_finished:
            message = "the server ended the stream before it had answered all"
            raise ServerError(grpc.StatusCode.INTERNAL, message)

    @property
    def is_waiting(self) -> bool:
        """Whether the server was lost, and none has answered anything since."""
        return self._patience.is_waiting

    def interrupted(self, error: EncoderError, now: float) -> float:
        """The server was lost, with this error. Returns the seconds until another call is to be
        made. Raises where another can't help, and the error where none has helped for too long. A
        server that has no room for the stream, or is not trusted, counts as lost if the stream had
        been open."""
        self.stop()
        self._lost = error
        if isinstance(error, Overloaded | NotTrusted) and not self._was_open:
            raise error
        for entry in self._entries.values():
            if entry.answered or entry.failure or not entry.begun:
                continue
            if self.options.live is not None:
                self._lose(entry, error, "is a live stream, which can't be resumed")
            elif entry.is_spent:
                self._lose(
                    entry,
                    error,
                    "was given as an iterator, which can't be read again; give an object that can "
                    "be iterated, or an array",
                )
        pause = self._patience.pause(now, error.retry_after_seconds)
        if pause is None:
            raise error
        return pause

    def look(self, now: float, is_reading: bool) -> Action:
        """What to do about a server that may be silent; to be asked now and then. While nobody
        reads, nothing is known of its silence."""
        since = None if self._is_open else self._patience.failing_since
        return self.silence.look(self._owed() if is_reading else None, now, since)

    def _owed(self) -> Hashable | None:
        """What the server owes, and how much of that has come; None if it owes nothing."""
        if not self._is_open:
            return "opening", self._calls
        if any(entry.is_owed(self.options.live) for entry in self._entries.values()):
            return "results", self._replies
        if self.is_finished:
            return "end", self._replies
        return ("reading", self._sending.written) if self._sending.is_writing else None

    def given_up(self) -> EncoderError:
        """The error of a server that was silent for too long."""
        if self._patience.is_waiting and self._lost is not None:
            return self._lost
        message = f"no sign of life from the server for {self.silence.seconds:g} s"
        return Unavailable(grpc.StatusCode.UNAVAILABLE, message)

    def _lose(self, entry: Entry, cause: EncoderError, why: str) -> None:
        lost = _unavailable(entry, f"the server was lost ({cause.message}), and {entry.name} {why}")
        lost.__cause__ = cause
        self._give_up(entry, lost)

    def _give_up(self, entry: Entry, error: Unavailable) -> None:
        """The entry can't go on: that is its result, or is raised if errors are not returned."""
        if not self.options.returns_errors:
            raise error
        entry.sent.failure = error

    def progress(self) -> Progress:
        """How far it has come. What was lost with a server and is sent again counts once."""
        entries, before = self._entries.values(), self._progress
        answered = [entry for entry in entries if entry.answered]
        sent = sum(entry.sent.steps for entry in entries)
        done = sum(entry.sent.steps if entry.answered else entry.received for entry in entries)
        self._progress = Progress(
            self._pulled - len(entries) + len(answered),
            max(self._released_steps + sent, before.steps_sent),
            max(self._released_steps + done, before.steps_done),
        )
        return self._progress

    def close(self) -> None:
        """Nothing more will come: what is half written is removed."""
        self.stop()
        for entry in self._entries.values():
            entry.discard()

    # -- the replies' side

    def receive(self, response: pb.EncodeStreamResponse, now: float) -> list[tuple[Entry, Any]]:
        """What the reply completes, with the entry that it belongs to, in the order in which the
        caller gets it; `result` makes of it what the caller gets."""
        self._replies += 1
        if response.HasField("opened"):
            self._was_open = self._is_open = True
            self._patience.connected(now)
            self._infos = named_infos(response.opened.outputs)
            self._opened((response.opened.model, response.opened.version))
        touched: dict[int, Entry] = {}
        for chunk in response.chunks:
            entry = self._entries.get(chunk.id)
            if entry is not None and not entry.answered:
                counts = dict(entry.counts)
                receive(entry, chunk, self.options, self._infos)
                touched[entry.index] = entry
                if entry.answered or entry.counts != counts:
                    self._patience.progressed()
        return list(self._release(self._first() if self.options.ordered else touched.values()))

    def result(self, entry: Entry, value: Any) -> Any:
        """What the caller gets for a value that `receive` has returned. Raises it, if it is an
        error and errors are raised."""
        if isinstance(value, SequenceFailure):
            if not self.options.returns_errors:
                raise value
            if self.options.in_chunks:
                return EncodingChunk(entry.key, entry.received, {}, True, True, True, error=value)
        return (entry.key, value) if entry.keyed and not self.options.in_chunks else value

    def _first(self) -> list[Entry]:
        """The entries whose turn it is: all up to the first that is not answered."""
        first = []
        for entry in self._entries.values():
            first.append(entry)
            if not entry.answered:
                break
        return first

    def _release(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Any]]:
        for entry in entries:
            yield from ((entry, result) for result in entry.results)
            entry.results.clear()
            if entry.answered:
                del self._entries[entry.index]
                self._released_steps += entry.sent.steps

    def _opened(self, served: tuple[str, str]) -> None:
        """A model has taken the call. No sequence's rows may come in part from one model and in
        part from another."""
        if not self._entries:  # nothing is owed that could show progress
            self._patience.progressed()
        if served != self._served:
            for entry in self._entries.values():
                if entry.answered or entry.failure:
                    continue
                if any(entry.counts.values()) and self.options.in_chunks:
                    now, before = (" version ".join(names) for names in (served, self._served))
                    message = f"the model is now {now}, and {entry.name} had begun with {before}"
                    self._give_up(entry, _unavailable(entry, message))
                else:
                    entry.restart()
        self._served = served


def _unavailable(entry: Entry, message: str) -> Unavailable:
    error = Unavailable(grpc.StatusCode.UNAVAILABLE, message)
    error.index, error.key = entry.index, entry.key
    return error
