"""`Lane` and `Level`: what one caller has waiting at one priority, and all of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from ..callers import Priority
from .forming import Offered
from .shares import PRIORITY_RATIO
from .turns import Turns

_TOP_WEIGHT = 8.0  # of the highest level that has something waiting


class Waiting(Offered, Protocol):
    """What the queue must know of a waiting sequence. Times are seconds of one clock. It is told
    from others by identity.
    """

    @property
    def admitted_at(self) -> float: ...
    @property
    def caller(self) -> str: ...
    @property
    def priority(self) -> Priority: ...


J = TypeVar("J", bound=Waiting)


class Lane(Generic[J]):
    """What one caller has waiting at one priority."""

    __slots__ = ("caller", "credit", "jobs", "last_cost", "place", "placed", "tokens", "weight")

    def __init__(self, caller: str, weight: float, place: float):
        """`place` is the least that a job costs, however few tokens it has."""
        self.caller = caller
        self.weight = weight
        self.place = place
        self.credit = self.last_cost = 0.0
        self.placed = False
        self.jobs: dict[J, None] = {}  # in order of arrival
        self.tokens = 0  # of all of them

    @property
    def first(self) -> J:
        """The job that came first. There must be one."""
        return next(iter(self.jobs))

    @property
    def next_cost(self) -> float | None:
        """The cost of the job that came first, in tokens."""
        return max(self.first.tokens, self.place) if self.jobs else None


class Level(Generic[J]):
    """The lanes of one priority."""

    def __init__(self, priority: Priority, quantum: float):
        """`quantum` is that of the turns of its lanes."""
        self.priority = priority
        self.weight = _TOP_WEIGHT
        self.credit = self.last_cost = 0.0
        self.placed = False
        self.lanes: dict[str, Lane[J]] = {}  # by caller
        self.turns: Turns[Lane[J]] = Turns(quantum, lambda lane: self.lanes.pop(lane.caller))
        self.callers_weight = 0.0  # of all that have something waiting

    @property
    def next_cost(self) -> float | None:
        """The cost of the first job of the lane whose turn it is, in tokens."""
        return self.turns.current().next_cost if self.turns else None

    @property
    def tokens(self) -> int:
        """Tokens of all that waits at this priority."""
        return sum(lane.tokens for lane in self.turns)

    def wait(self, lane: Lane[J]) -> None:
        """Take into account that a lane is empty no more."""
        self.lanes[lane.caller] = lane
        self.turns.wait(lane)
        self.callers_weight += lane.weight

    def rest(self, lane: Lane[J]) -> None:
        """Take into account that a lane is empty."""
        self.turns.rest(lane)
        # Sums of floats drift, and of nothing it is known.
        self.callers_weight = self.callers_weight - lane.weight if self.turns else 0.0


def level_weights(callers_weights: Mapping[Priority, float]) -> dict[Priority, float]:
    """What each level weighs, given the weights of the callers that have something waiting there.

    A level has eight times the next one's part, so that it comes first and starves no other. And no
    caller gains by a lower priority: where fewer wait below, the level below has less for it.
    """
    weights: dict[Priority, float] = {}
    above: Priority | None = None
    for priority in sorted(callers_weights, reverse=True):
        if above is None:
            weights[priority] = _TOP_WEIGHT
        else:
            ratio = min(1.0, callers_weights[priority] / callers_weights[above])
            weights[priority] = weights[above] * ratio / PRIORITY_RATIO ** (above - priority)
        above = priority
    return weights
