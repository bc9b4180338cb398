"""A server of `Admission` in virtual time: callers with deadlines, who come whether they are
welcome or not, a device that takes what the test says, and an oracle that knows what it takes.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bilstm_server.batching.admission import Admission, Kind
from bilstm_server.callers import Priority
from bilstm_server.settings import QueueLimits

WAY = 0.0005  # seconds, of a reply to its caller


@dataclass(eq=False, slots=True)
class Job:
    came_at: float
    tokens: int
    deadline: float = math.inf
    group: str = ""  # by which the test tells it from others; the policy does not
    caller: str = ""
    priority: Priority = Priority.NORMAL
    kind: Kind = Kind.CALL
    is_long: bool = False
    behind: int = 0
    admitted_at: float = -1.0


@dataclass
class Engine:
    """What a batch takes, in seconds: a time of its own, for each step of its longest sequence, and
    for each token."""

    per_token: float
    base: float = 0.0
    per_step: float = 0.0
    noise: float = 0.0  # of what a batch takes, as a standard deviation
    speed: Callable[[float], float] = lambda now: 1.0  # how much longer all takes, at that time

    def seconds(self, longest: int, tokens: int, now: float) -> float:
        """Without noise."""
        line = self.base + self.per_step * longest + self.per_token * tokens
        return line * self.speed(now)


@dataclass
class Tally:
    """What became of the jobs, in tokens; and of those refused, how many could have made it."""

    computed: int = 0
    in_time: int = 0
    for_nobody: int = 0
    refused: int = 0
    at_door: int = 0  # of these, on arrival
    refused_wrongly: int = 0

    @property
    def wasted(self) -> float:
        return self.for_nobody / max(self.computed, 1)


@dataclass
class Server:
    limits: QueueLimits
    engine: Engine
    gap: float = 0.0002  # seconds between batches
    reply: float = 0.001  # seconds from a batch's end until its replies are written
    stages_ahead: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.policy: Admission[Job] = Admission(self.limits)
        self.now = 0.0
        self.tally = Tally()
        self.by_group: dict[str, Tally] = {}
        self._random = random.Random(self.seed)
        self._ends_at = -math.inf  # of what is computed now
        self._free_at = -math.inf  # the same, as the server expects it
        self._running: list[Job] = []
        self._ahead: list[Job] = []
        self._longest = 0

    def run(self, arrivals: Iterator[Job], until: float) -> Tally:
        """Go on until then, and count what happens meanwhile."""
        self.tally = Tally()
        self.by_group.clear()
        for job in itertools.takewhile(lambda job: job.came_at < until, arrivals):
            while self._running and self._ends_at <= job.came_at:
                self._end()
            self.now = job.came_at
            self._arrive(job)
        while self._running and self._ends_at < until:
            self._end()
        return self.tally

    def _tallies(self, job: Job) -> tuple[Tally, Tally]:
        return self.tally, self.by_group.setdefault(job.group, Tally())

    # -- what happens -----------------------------------------------------------------------------

    def _arrive(self, job: Job) -> None:
        policy, now = self.policy, self.now
        free_at = self._expected_free_at()
        is_late = job.deadline < math.inf and policy.lateness.of_call(
            [job.tokens], job.caller, job.priority, job.deadline, free_at, now
        )
        if is_late or policy.refusal(1, job.tokens, job.caller, job.priority, now):
            ahead = policy.tokens + sum(job.tokens for job in self._ahead)
            self._refuse(job, True, ahead, self._longest)
            return
        policy.admit([job], now)
        self._longest = max(self._longest, job.tokens)
        if not self._running:
            self._begin(now)
        elif self.stages_ahead and not self._ahead and policy.is_full:
            self._ahead = self._close(now, free_at)

    def _expected_free_at(self) -> float:
        ahead = self._ahead
        seconds = self.policy.outlook.estimate.seconds(*_size(ahead)) if ahead else 0.0
        return max(self._free_at, self.now) + seconds

    def _close(self, now: float, free_at: float = -math.inf) -> list[Job]:
        closed = self.policy.close_batch(now, free_at)
        for job in closed.expired:
            self._refuse(job, False, *_size(closed.jobs)[::-1])
        return closed.jobs

    def _begin(self, now: float) -> None:
        jobs, self._ahead = self._ahead, []
        while not jobs and self.policy.tokens:
            jobs = self._close(now)
        self._running = jobs
        if not jobs:
            return
        outlook = self.policy.outlook
        outlook.begin(min(job.admitted_at for job in jobs), now)
        longest, tokens = _size(jobs)
        self._free_at = now + outlook.estimate.seconds(longest, tokens)
        self._took = self.engine.seconds(longest, tokens, now) * max(
            self._random.gauss(1.0, self.engine.noise), 0.1
        )
        self._ends_at = now + self._took
        if self.stages_ahead and self.policy.is_full:
            self._ahead = self._close(now, self._free_at)

    def _end(self) -> None:
        ended_at, jobs = self._ends_at, self._running
        outlook = self.policy.outlook
        outlook.end(*_size(jobs), self._took, ended_at)
        outlook.reply(self.reply, ended_at)
        for job in jobs:
            in_time = ended_at + self.reply + WAY <= job.deadline
            for tally in self._tallies(job):
                tally.computed += job.tokens
                tally.in_time += job.tokens * in_time
                tally.for_nobody += job.tokens * (not in_time)
        self._running = []
        self._begin(ended_at + self.gap)

    # -- the oracle -------------------------------------------------------------------------------

    def _refuse(self, job: Job, at_door: bool, ahead: int, longest: int) -> None:
        """Count it, and whether it could have had its reply in time, had it been computed behind so
        many tokens, as many at a time as a batch may have."""
        now = max(self._ends_at, self.now)
        most = self.limits.max_batch_tokens
        batches, rest = divmod(ahead, most)
        if rest + job.tokens > most:
            batches, rest = batches + 1, 0
        now += batches * (self.engine.seconds(longest, most, now) + self.gap)
        now += self.engine.seconds(max(longest, job.tokens), rest + job.tokens, now)
        could = now + self.reply + WAY <= job.deadline
        for tally in self._tallies(job):
            tally.refused += 1
            tally.at_door += at_door
            tally.refused_wrongly += could


def _size(jobs: list[Job]) -> tuple[int, int]:
    return max((job.tokens for job in jobs), default=0), sum(job.tokens for job in jobs)


# -- callers ---------------------------------------------------------------------------------------


def arrivals(
    tokens_per_second: float,
    sizes: tuple[int, int],
    timeout: float = math.inf,
    *,
    group: str = "",
    caller: str = "",
    since: float = 0.0,
    seed: int = 1,
) -> Iterator[Job]:
    """Jobs of so many tokens, `sizes` the fewest and the most, that come by chance."""
    chance = random.Random(seed)
    now = since
    while True:
        tokens = chance.randint(*sizes)
        now += chance.expovariate(tokens_per_second / (sum(sizes) / 2))
        yield Job(now, tokens, now + timeout, group, caller)


def together(*sources: Iterator[Job]) -> Iterator[Job]:
    return heapq.merge(*sources, key=lambda job: job.came_at)
