"""In which order modules compute, where their widths and the numbers in their names leave one.

    a -> b  only if b reads as many floats as a gives
    x.1     before x.2: modules whose names differ in one number compute in its order

A pure function; it never takes one of several orders that fit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice, pairwise, product

from .found import Found

_EMBEDDING = re.compile(r"emb|lookup|vocab|word|token|char|lut", re.IGNORECASE)
_LINEAR = re.compile(r"proj|lin|fc|dense|head|out|dec|class|clf|score", re.IGNORECASE)
_HEAD = re.compile(
    r"(^|[._])(fc|clf|cls|classifier|head|out|output|logits?|hidden2tag|predictor)$", re.IGNORECASE
)
_MOST_READINGS = 64
_MOST_MODULES = 256
_MOST_TRIED = 20_000  # placings of a module, before the order counts as not told


class TooMany(Exception):
    """There are more ways to try than it is worth: no order is told."""


def orders(
    modules: Sequence[Found],
    width: int | None,
    in_order: Sequence[Found] = (),
    *,
    heads_last: bool = False,
) -> list[list[Found]]:
    """The orders of all modules that fit, of which the first reads `width` floats, or if None any
    number, and those of `in_order` follow each other as there. With `heads_last`, what is named as
    a head stands behind all LSTMs. At most two: then no tensor tells which it is.

    Raises `TooMany`.
    """
    if len(modules) > _MOST_MODULES:
        raise TooMany
    if not _may_be_a_trail(modules, width):
        return []
    before = {id(b): [a for a in modules if precedes(a, b)] for b in modules}
    for earlier, later in pairwise(module for module in in_order if module in modules):
        before[id(later)].append(earlier)
    if heads_last:
        lstms = [module for module in modules if module.kind == "lstm"]
        for head in filter(is_named_head, modules):
            before[id(head)] += lstms
    tried = 0

    def place(width: int | None, left: list[Found]) -> Iterator[list[Found]]:
        nonlocal tried
        if not left:
            yield []
        for module in left:
            fits = width is None or module.reads == width
            if not fits or any(earlier in left for earlier in before[id(module)]):
                continue
            tried += 1
            if tried > _MOST_TRIED:
                raise TooMany
            others = [other for other in left if other is not module]
            for rest in place(module.gives, others):
                yield [module, *rest]

    return list(islice(place(width, list(modules)), 2))


def longest(modules: Sequence[Found], width: int | None) -> list[Found]:
    """The modules one after the other as far as they fit, in the order of the file where several
    do: what an error can begin with. The first reads `width` floats, or if None any number.
    """
    starts = [m for m in _next(modules) if width is None or m.reads == width]
    trails = [_onward(start, modules) for start in starts]

    def rank(trail: list[Found]) -> tuple[bool, int]:
        return any(module.kind == "lstm" for module in trail), len(trail)

    return max(trails, key=rank, default=[])


def is_named_head(module: Found) -> bool:
    """Whether its name is one that people give to what gives the scores."""
    return module.is_affine and _HEAD.search(module.name) is not None


def _onward(start: Found, modules: Sequence[Found]) -> list[Found]:
    trail = [start]
    left = [module for module in modules if module is not start]
    while fits := [m for m in _next(left) if m.reads == trail[-1].gives]:
        trail.append(fits[0])
        left.remove(fits[0])
    return trail


def _next(left: Sequence[Found]) -> list[Found]:
    """The modules that none of the others precedes."""
    return [module for module in left if not any(precedes(other, module) for other in left)]


def precedes(a: Found, b: Found) -> bool:
    """Whether the names say that a computes before b: they differ in one number alone."""
    first, second = _parts(a.name), _parts(b.name)
    if len(first) != len(second) or first[::2] != second[::2]:
        return False
    pairs = [(int(x), int(y)) for x, y in zip(first[1::2], second[1::2], strict=True) if x != y]
    return len(pairs) == 1 and pairs[0][0] < pairs[0][1]


def _parts(name: str) -> list[str]:
    """Words and numbers in turn."""
    return re.split(r"([0-9]{1,9})", name)


def _may_be_a_trail(modules: Collection[Found], width: int | None) -> bool:
    """Whether, by Euler's count, all modules can be passed once: each width is read as often as it
    is given, but the first and the last.
    """
    surplus = Counter(module.reads for module in modules)
    surplus.subtract(module.gives for module in modules)
    starts = [reads for reads, count in surplus.items() if count > 0]
    if sum(surplus[reads] for reads in starts) > 1:
        return False
    return width is None or not starts or starts == [width]


def readings(modules: Sequence[Found]) -> Iterator[list[bool]]:
    """Which of the weights without a bias are embeddings: every way that their names leave. One
    flag for each module.
    """
    yield from (list(way) for way in islice(product(*map(_ways, modules)), _MOST_READINGS))


def reachable(modules: Sequence[Found], width: int) -> set[int]:
    """The widths that modules can make of a value, one after the other, and its own."""
    widths = {width}
    while more := {m.gives for m in modules if m.reads in widths} - widths:
        widths |= more
    return widths


def _ways(module: Found) -> list[bool]:
    if module.kind != "matrix":
        return [False]
    if _EMBEDDING.search(module.name):
        return [True]
    return [False] if _LINEAR.search(module.name) else [True, False]
