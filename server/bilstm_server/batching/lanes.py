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
    """What one caller has waiting at one priority; never empty but when it is made."""

    __slots__ = ("caller", "credit", "jobs", "tokens", "weight")

    def __init__(self, caller: str, weight: float):
        self.caller = caller
        self.weight = weight
        self.credit = 0.0
        self.jobs: dict[J, None] = {}  # in order of arrival
        self.tokens = 0  # of all of them

    @property
    def first(self) -> J:
        """The job that came first."""
        return next(iter(self.jobs))

    @property
    def next_tokens(self) -> int:
        """Tokens of the job that came first."""
        return self.first.tokens


class Level(Generic[J]):
    """The lanes of one priority."""

    def __init__(self, priority: Priority):
        self.priority = priority
        self.weight = _TOP_WEIGHT
        self.credit = 0.0
        self.lanes: dict[str, Lane[J]] = {}  # by caller
        self.turns: Turns[Lane[J]] = Turns()
        self.callers_weight = 0.0  # of all lanes together

    @property
    def next_tokens(self) -> int:
        """Tokens of the first job of the lane whose turn it is."""
        return self.turns.current().next_tokens

    @property
    def tokens(self) -> int:
        """Tokens of all that waits at this priority."""
        return sum(lane.tokens for lane in self.turns)

    def add(self, lane: Lane[J]) -> None:
        """Add the lane of a caller that had none."""
        self.lanes[lane.caller] = lane
        self.turns.add(lane)
        self.callers_weight += lane.weight

    def remove(self, lane: Lane[J]) -> None:
        """Forget a lane that is empty."""
        del self.lanes[lane.caller]
        self.turns.remove(lane)
        # Sums of floats drift, and of nothing it is known.
        self.callers_weight = self.callers_weight - lane.weight if self.lanes else 0.0


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
