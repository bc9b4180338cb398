"""`LongTurns`: whose long sequences share the next slice, in a pure simulation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from bilstm_server.batching.long_turns import LongTurns
from bilstm_server.batching.shares import Shares
from bilstm_server.callers import Priority

SLICE_TOKENS = 64
SEQUENCES = 8  # that share a slice at most


@dataclass(eq=False)
class Long:
    caller: str
    priority: Priority = Priority.NORMAL


def computed(longs: list[Long], slices: int, **weights: float) -> Counter[Long]:
    """Tokens of each sequence after so many slices, none of them ending."""
    turns: LongTurns[Long] = LongTurns(Shares(weights))
    for long in longs:
        turns.add(long)
    tokens: Counter[Long] = Counter()
    for _ in range(slices):
        group = list(islice(turns.in_order(SLICE_TOKENS), SEQUENCES))
        assert len(set(group)) == len(group) > 0
        for long in group:
            turns.serve(long, SLICE_TOKENS // len(group))
            tokens[long] += SLICE_TOKENS // len(group)
    return tokens


def test_one_caller_takes_turns_with_itself() -> None:
    """One caller's sequences have equal parts, however many share a slice."""
    longs = [Long("a") for _ in range(20)]
    tokens = computed(longs, 200)
    assert max(tokens.values()) - min(tokens[long] for long in longs) <= SLICE_TOKENS


def test_callers_have_equal_parts() -> None:
    """Not their sequences: one with a single sequence has as much as one with 64."""
    single, many = Long("single"), [Long("many") for _ in range(64)]
    tokens = computed([*many, single], 500)
    assert abs(tokens[single] / tokens.total() - 0.5) <= 0.05


def test_parts_are_by_weight_and_priority() -> None:
    """Three times the weight is three times the part, and each priority has eight times that of
    the one below."""
    heavy, light = Long("heavy"), Long("light")
    tokens = computed([heavy, light], 1000, heavy=3.0)
    assert abs(tokens[heavy] / tokens[light] - 3) <= 0.3
    normal, low = Long("a"), Long("b", Priority.LOW)
    tokens = computed([normal, low], 2000)
    assert abs(tokens[normal] / tokens[low] - 8) <= 1


def test_a_newcomer_has_no_more_than_its_part() -> None:
    """What it was not served before it came is not made up for."""
    turns: LongTurns[Long] = LongTurns(Shares({}))
    old, new = Long("old"), Long("new")
    turns.add(old)
    for _ in range(100):
        turns.serve(old, SLICE_TOKENS)
    turns.add(new)
    assert list(turns.in_order(SLICE_TOKENS)) == [old, new]


def test_those_that_ended_leave_nothing() -> None:
    """Sequences that end, in whatever order, have no more turns, nor keep any from others."""
    turns: LongTurns[Long] = LongTurns(Shares({}))
    longs = [Long("a"), Long("b"), Long("a")]
    for long in longs:
        turns.add(long)
    turns.remove(longs[0])
    assert list(turns.in_order(SLICE_TOKENS)) == [longs[2], longs[1]]
    turns.remove(longs[1])
    turns.remove(longs[2])
    assert not turns
    assert not list(turns.in_order(SLICE_TOKENS))
