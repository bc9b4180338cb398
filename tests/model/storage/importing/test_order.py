"""The order of modules is told by widths and numbers alone, and never one of several that fit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bilstm_server.model.storage.chain.found import Found
from bilstm_server.model.storage.chain.modules import find_modules
from bilstm_server.model.storage.chain.order import TooMany, longest, orders, precedes


def module(name: str, reads: int, gives: int) -> Found:
    return Found(name, "linear", {f"{name}.weight": (gives, reads)}, reads, gives)


def fits(order: Sequence[Found], width: int | None) -> bool:
    """Whether each module reads what the one before gives, and numbers follow each other."""
    reads = [width, *(m.gives for m in order[:-1])]
    numbers = all(not precedes(b, a) for i, a in enumerate(order) for b in order[i + 1 :])
    return numbers and all(own in (None, m.reads) for own, m in zip(reads, order, strict=True))


NAMES = st.sampled_from(["fc", "out", "a.0", "a.1", "a.2", "b1", "b2", "c.0.x", "c.1.x", "d"])


@given(
    modules=st.lists(
        st.tuples(NAMES, st.integers(1, 3), st.integers(1, 3)),
        min_size=1,
        max_size=6,
        unique_by=lambda drawn: drawn[0],
    ),
    width=st.none() | st.integers(1, 3),
)
@hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
def test_orders(modules: list[tuple[str, int, int]], width: int | None) -> None:
    """One order is found where one fits, and two where several do: the judge tries all."""
    own = [module(*drawn) for drawn in modules]
    every = [order for order in permutations(own) if fits(order, width)]
    found = orders(own, width)
    assert len(found) == min(len(every), 2)
    assert all(tuple(order) in every for order in found)
    trail = longest(own, width)
    assert all(a.gives == b.reads for a, b in pairwise(trail))
    assert len(trail) <= len(own)


@given(first=st.lists(st.sampled_from(["a", "b.0", "b.1", "c"]), unique=True, min_size=2))
def test_said_order(first: list[str]) -> None:
    """An order that was said is kept, and is the only one among modules as wide as each other."""
    own = {name: module(name, 2, 2) for name in ("a", "b.0", "b.1", "c")}
    said = [own[name] for name in first]
    found = orders(said, 2, said)
    contradicts = any(precedes(b, a) for i, a in enumerate(said) for b in said[i + 1 :])
    assert found == ([] if contradicts else [said])


def test_numbers_of_names() -> None:
    """Names that differ in one number are in its order, as numbers are, and no others."""
    x = {
        name: module(name, 1, 1) for name in ("l.2.a", "l.10.a", "l.2.b", "k.2.a", "l.a", "l.2.a.1")
    }
    assert precedes(x["l.2.a"], x["l.10.a"])
    assert not precedes(x["l.10.a"], x["l.2.a"])
    for other in ("l.2.b", "k.2.a", "l.a", "l.2.a.1", "l.2.a"):
        assert not precedes(x["l.2.a"], x[other])
        assert not precedes(x[other], x["l.2.a"])
    assert not precedes(module("1.2", 1, 1), module("2.3", 1, 1))  # two numbers differ


def test_many_alike() -> None:
    """Many modules of one width are not tried without end."""
    alike = [module(chr(97 + i), 8, 8) for i in range(20)]
    assert len(orders(alike, 8)) == 2
    with pytest.raises(TooMany):
        orders([*alike, module("x.0", 9, 8), module("x.1", 8, 9)], 8)


@given(
    shapes=st.dictionaries(
        st.from_regex(
            r"((lstm|a|b\.0|x)\.)?(weight|bias|running_mean|weight_ih_l0|weight_hh_l0|transitions|"
            r"weight_hr_l0|start_transitions|end_transitions|weight_ih|u)",
            fullmatch=True,
        ),
        st.lists(st.integers(0, 5), max_size=4).map(tuple),
        max_size=12,
    )
)
@hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
def test_any_tensors(shapes: dict[str, tuple[int, ...]]) -> None:
    """Whatever the names and shapes are, each tensor is part of one module."""
    names = [name for found in find_modules(shapes) for name in found.shapes]
    assert sorted(names) == sorted(shapes)
