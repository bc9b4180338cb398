"""Callers that share one model, in a pure simulation: who sends what, and what each of them got."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

from bilstm_server.batching.admission import Admission, Kind
from bilstm_server.callers import Priority
from bilstm_server.settings import QueueLimits
from tests.batching.admission.simulation import Job


class Caller:
    """One that sends calls of these sizes, one after the other, so many at a time."""

    def __init__(
        self,
        name: str,
        calls: Iterable[tuple[int, ...]],
        ahead: int = 1,
        *,
        priority: Priority = Priority.NORMAL,
        kind: Kind = Kind.CALL,
    ):
        """`calls` are the tokens of the sequences of each. A stream's have one sequence each."""
        self.name = name
        self.ahead = ahead
        self.priority = priority
        self.kind = kind
        self.calls = cycle(calls)
        self.call = next(self.calls)  # the next one
        self.in_flight = 0
        self.computed: list[int] = []  # tokens, batch by batch
        self.refused: list[int] = []  # calls, batch by batch

    def part(self, first: int = 0) -> float:
        """Tokens that it got for each batch, from the `first` one on."""
        return sum(self.computed[first:]) / len(self.computed[first:])


class Shared:
    """A model that computes batch after batch for callers that never rest. A call that is answered
    with a batch is followed by the next one once the batch after that is closed: late, but ahead.
    """

    def __init__(self, limits: QueueLimits, callers: Iterable[Caller]):
        self.limits = limits
        self.policy: Admission[Job] = Admission(limits)
        self.callers = list(callers)
        self.batches: list[list[Job]] = []
        self._computing: list[Job] = []
        self._calls: dict[Job, tuple[Caller, list[Job]]] = {}  # of the jobs that are not computed

    def run(self, batches: int) -> None:
        for _ in range(batches):
            self.step()

    def step(self) -> None:
        for caller in self.callers:
            caller.refused.append(0)
        sending = list(self.callers)
        while sending:  # one call each, until nobody has one more or finds room for it
            sending = [c for c in sending if c.in_flight < c.ahead and self.send(c)]
        closed = self.policy.close_batch(0.0)
        assert not closed.expired
        self.batches.append(closed.jobs)
        self.check()
        for caller in self.callers:
            mine = [job.tokens for job in closed.jobs if job.caller == caller.name]
            caller.computed.append(sum(mine))
        computed, self._computing = self._computing, closed.jobs
        for job in computed:
            self.answer(job)

    def send(self, caller: Caller) -> bool:
        """Whether the caller's next call was let in, or waits as a stream does."""
        jobs = [
            Job(tokens, caller.kind, caller=caller.name, priority=caller.priority)
            for tokens in caller.call
        ]
        if caller.kind is Kind.STREAM:
            self.policy.offer(jobs[0], 0.0)
        else:
            tokens = sum(caller.call)
            if self.policy.refusal(len(jobs), tokens, caller.name, caller.priority, 0.0):
                caller.refused[-1] += 1
                return False
            self.policy.admit(jobs, 0.0)
        waiting = list(jobs)
        self._calls |= dict.fromkeys(jobs, (caller, waiting))
        caller.call = next(caller.calls)
        caller.in_flight += 1
        return True

    def answer(self, job: Job) -> None:
        caller, waiting = self._calls.pop(job)
        waiting.remove(job)
        caller.in_flight -= not waiting

    def check(self) -> None:
        """No bound is ever exceeded."""
        jobs = self.batches[-1]
        assert len(jobs) <= self.limits.max_batch_sequences
        assert len(jobs) == 1 or sum(j.tokens for j in jobs) <= self.limits.max_batch_tokens
        assert self.policy.sequences <= self.limits.max_queue_sequences
        assert self.policy.tokens <= self.limits.max_queue_tokens
