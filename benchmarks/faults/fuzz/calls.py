"""Damaged messages, unary and of streams, many calls a connection: each must have an answer, and
none INTERNAL."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from hyperframe.frame import DataFrame, RstStreamFrame

from ..findings import Finding
from ..many_calls import Ended, ManyCalls
from ..wire import begin, block_of, framed
from .messages import damaged_call
from .standing import attacks
from .traffic import RecordedCall, Traffic, numbered, recorded

NAME = "fuzz-calls"
CASES = 100_000
_WARM_UP = 10  # a part of them that comes before what the server grows by is counted
SEED = 0
_CONNECTIONS = 4
_IN_FLIGHT = 8  # calls of each connection
_PATIENCE_SECONDS = 20.0  # without any call's end
_FRAME_BYTES = 16_384
_MOST_BYTES = 40 * 1024  # of one call's messages: below the first window of a stream
_CANCEL = 8
_WATCH = "/grpc.health.v1.Health/Watch"  # it never ends by itself
_FAULTS = {"2": "UNKNOWN", "13": "INTERNAL", "none": "without a status", "lost": "connection lost"}
_FAULTS["unanswered"] = "unanswered"


def trial(cases: int = CASES) -> Iterator[Finding]:
    sent = f"{cases:,} damaged calls of real traffic, seed {SEED}"
    outcome = Outcome()
    yield from attacks(
        NAME,
        sent,
        warm_up=lambda target: send(target, cases // _WARM_UP, Outcome()),
        attack=lambda target: send(target, cases, outcome),
    )
    yield Finding(NAME, sent, "calls that have ended", outcome.statuses.total(), least=cases)
    for status in sorted(outcome.statuses.keys() - _FAULTS.keys()):
        yield Finding(NAME, sent, f"ended as {status}", outcome.statuses[status])
    for status, words in _FAULTS.items():
        yield Finding(NAME, sent, f"calls that ended {words}", outcome.statuses[status], most=0)
    for fault in outcome.faults[:10]:
        print(f"  again: python -m benchmarks.faults.fuzz HOST:PORT --call {fault}")


@dataclass
class Outcome:
    """How many calls ended with which status, and the numbers of those that should not have."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[int] = field(default_factory=list)

    def note(self, case: int, status: str) -> None:
        self.statuses[status] += 1
        if status in _FAULTS:
            self.faults.append(case)


def cases_of(traffic: Traffic, count: int, seed: int = SEED) -> Iterator[tuple[int, RecordedCall]]:
    """Damaged calls, each with its number."""
    for number, random in numbered(seed, count):
        yield number, damaged_call(random.choice(traffic.calls), traffic.calls, random)


def send(target: str, count: int, outcome: Outcome, first: int = 0) -> None:
    """Send the cases below `count`, from `first` on, over several connections."""
    cases = ((n, call) for n, call in cases_of(recorded(), count) if n >= first)
    with ExitStack() as opened:
        flights = [_Flight(target, outcome, opened) for _ in range(_CONNECTIONS)]
        ended_at = time.perf_counter()
        more = True
        while more or any(flight.cases for flight in flights):
            for flight in flights:
                more = flight.fill(cases) and more
            select.select(flights, [], [], 0.05)
            if sum([flight.land() for flight in flights]):
                ended_at = time.perf_counter()
            elif time.perf_counter() > ended_at + _PATIENCE_SECONDS:
                for flight in flights:
                    flight.give_up()


class _Flight:
    """One connection's calls that are in flight. One that is lost is opened anew."""

    def __init__(self, target: str, outcome: Outcome, opened: ExitStack):
        self._target = target
        self._outcome = outcome
        self._opened = opened
        self._blocks: dict[str, bytes] = {}
        self.cases: dict[int, int] = {}  # by stream
        self._connect()

    def _connect(self) -> None:
        self._calls = self._opened.enter_context(closing(ManyCalls(self._target)))

    def fileno(self) -> int:
        return self._calls.fileno()

    def fill(self, cases: Iterator[tuple[int, RecordedCall]]) -> bool:
        """Send as many as there is room for. Returns whether there may be more."""
        more = True
        while len(self.cases) < _IN_FLIGHT and self._calls.has_room(_MOST_BYTES):
            case = next(cases, None)
            if case is None:
                more = False
                break
            self._begin(*case)
        self._calls.write()
        return more

    def _begin(self, number: int, call: RecordedCall) -> None:
        block = self._blocks.setdefault(call.path, block_of(call.path))
        cancelled = call.cancelled or call.path == _WATCH
        body = b"".join(map(framed, call.messages))[:_MOST_BYTES]
        frames = [begin(1, block), *_data(body, ends=not cancelled)]
        if cancelled:
            frames.append(RstStreamFrame(1, _CANCEL).serialize())
        stream = self._calls.call(frames, len(body), time.perf_counter())
        self.cases[stream] = number
        if cancelled:
            self._calls.end(stream, "cancelled")

    def land(self) -> int:
        """Note how calls have ended. Returns how many have."""
        if select.select([self._calls], [], [], 0)[0]:
            self._calls.read()
        ended, self._calls.ended = self._calls.ended, []
        self._note(ended)
        if self._calls.lost:
            self._connect()
        return len(ended)

    def give_up(self) -> None:
        for stream in list(self.cases):
            self._calls.end(stream, "unanswered")
        self.land()

    def _note(self, ended: Sequence[Ended]) -> None:
        for each in ended:
            self._outcome.note(self.cases.pop(each.stream), each.status)


def _data(body: bytes, ends: bool) -> Iterator[bytes]:
    """DATA frames of stream 1. The last one ends it, or none."""
    for at in range(0, max(len(body), 1), _FRAME_BYTES):
        last = at + _FRAME_BYTES >= len(body)
        flags = ["END_STREAM"] if ends and last else []
        yield DataFrame(1, body[at : at + _FRAME_BYTES], flags=flags).serialize()
