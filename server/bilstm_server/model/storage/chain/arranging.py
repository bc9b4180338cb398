"""The order of a checkpoint's modules, and which of them are embeddings: the only one that fits.

What fits in two ways, or not at all, is a `ValueError` in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from ..weights import some
from . import words
from .found import Found
from .links import Said
from .order import TooMany, is_named_head, longest, orders, reachable, readings
from .parts import Parts


@dataclass(frozen=True)
class Arranged:
    """Embeddings, and the modules behind them in order."""

    embeddings: list[Found]
    order: list[Found]

    @property
    def width(self) -> int | None:
        """The floats that the embeddings give together; None if there are none."""
        return sum(module.reads for module in self.embeddings) or None

    def split(self) -> tuple[list[Found], list[Found]]:
        """The modules up to the last LSTM, and those behind it."""
        last = max(i for i, module in enumerate(self.order) if module.kind == "lstm")
        return self.order[: last + 1], self.order[last + 1 :]


def arrange(parts: Parts, said: Said) -> tuple[Arranged, dict[str, list[Found]]]:
    """The order of all modules, and of each head where several were said."""
    ways = list(_ways(parts, parts.body))
    if len(ways) > 1:  # a head that gives as many numbers as the first layer reads, perhaps
        ways = list(_ways(parts, parts.body, heads_last=True)) or ways
    arranged = _only(ways, parts, said)
    heads = {}
    for prefix, modules in parts.heads.items():
        own = _orders(modules, arranged.order[-1].gives, ())
        if not own:
            head = longest(modules, arranged.order[-1].gives)
            raise ValueError(words.unfit([*arranged.order, *modules], [*arranged.order, *head]))
        if len(own) > 1:
            raise ValueError(words.several_orders(*own))
        heads[prefix] = own[0]
    if len(heads) == 1:
        (head,) = heads.values()
        return Arranged(arranged.embeddings, [*arranged.order, *head]), {}
    return arranged, heads


def arrange_body(parts: Parts, said: Said) -> tuple[Arranged, list[Found]]:
    """The order up to the last LSTM, without all that can't stand before it; and of this the
    modules that do not follow from the LSTM's output either.
    """
    nodes = [*parts.body, *(module for own in parts.heads.values() for module in own)]
    behind = {width for lstm in parts.lstms for width in reachable(nodes, lstm.gives)}
    kept = [
        m
        for m in nodes
        if m in parts.lstms
        or (_leads_to_lstm(m, nodes, parts.lstms) and not (is_named_head(m) and m.reads in behind))
    ]
    tables = [m for m in nodes if m.kind == "matrix" and m not in kept]
    droppable = [m for m in tables if m.reads in behind]
    ways = [
        way for way in _ways(parts, [*kept, *tables], droppable) if way.order[-1] in parts.lstms
    ]
    arranged = _only(ways, parts, said)
    for module in arranged.order:
        if module not in parts.lstms and module.reads in reachable(nodes, arranged.order[-1].gives):
            others = [other for other in arranged.order if other is not module]
            if any(
                way[-1] in parts.lstms for way in _orders(others, arranged.width, parts.in_order)
            ):
                raise ValueError(
                    f"no tensor tells whether {module} stands before the LSTM or behind it; say "
                    "it with --chain"
                )
    used = [*arranged.embeddings, *arranged.order]
    return arranged, [m for m in nodes if m not in used and m.reads not in behind]


def neighbours(parts: Parts) -> tuple[str, str] | None:
    """The modules before and behind the first one that can't be served, or None if names and
    widths leave several."""
    if not all(module.reads for module in parts.left):
        return None
    try:
        ways = list(_ways(parts, [*parts.body, *parts.left]))
    except ValueError:
        return None
    if len(ways) != 1:
        return None
    (way,) = ways
    line = ["the input" if not way.embeddings else some(way.embeddings), *map(str, way.order)]
    place = line.index(str(parts.left[0]), 1)
    return line[place - 1], [*line, "the end"][place + 1]


def _ways(
    parts: Parts,
    modules: Sequence[Found],
    droppable: Sequence[Found] = (),
    *,
    heads_last: bool = False,
) -> Iterator[Arranged]:
    """Every arrangement that fits, at most two of each reading of the weights without a bias. Those
    of `droppable` are in it as embeddings only."""
    for flags in readings(modules):
        embeddings = [m for m, embeds in zip(modules, flags, strict=True) if embeds]
        order = [m for m, embeds in zip(modules, flags, strict=True) if not embeds]
        way = Arranged([*parts.embeddings, *embeddings], [m for m in order if m not in droppable])
        for found in _orders(way.order, way.width, parts.in_order, heads_last=heads_last):
            yield Arranged(way.embeddings, found)


def _orders(
    modules: Sequence[Found],
    width: int | None,
    in_order: Sequence[Found],
    *,
    heads_last: bool = False,
) -> list[list[Found]]:
    try:
        return orders(modules, width, in_order, heads_last=heads_last)
    except TooMany as error:
        raise ValueError(
            "no tensor tells the order of its layers, which are many, or equally wide; say it with "
            f"--chain, or {words.EXPORT}"
        ) from error


def _only(ways: Sequence[Arranged], parts: Parts, said: Said) -> Arranged:
    if not ways:
        raise ValueError(_unfit(parts, said))
    if len(ways) > 1:
        one, other = ways[:2]
        both = [*one.embeddings, *other.embeddings]
        if either := [m for m in both if both.count(m) == 1]:
            raise ValueError(words.embedding_or_linear(either))
        problem = words.several_orders(one.order, other.order)
        proposed = words.proposal(one.embeddings, one.order, parts.crf, said)
        raise ValueError(f"{problem}; say it with {proposed}")
    return ways[0]


def _unfit(parts: Parts, said: Said) -> str:
    """Why there is no order of all modules."""
    readable = [
        [*parts.embeddings, *compress(parts.body, embeds)] for embeds in readings(parts.body)
    ]
    reads = parts.lstms[0].reads
    # Of several, embeddings that leave room for something else beside them.
    embeddings = min(readable, key=lambda own: sum(m.reads for m in own) > reads)
    order = [module for module in parts.body if module not in embeddings]
    width = sum(module.reads for module in embeddings) or None
    if placed := longest(order, width):
        return words.unfit(order, placed)
    problem = words.unfit_embeddings(embeddings, parts.lstms[0])
    if width is None or width > reads:
        return problem
    return f"{problem}; say it with {words.proposal(embeddings, order, parts.crf, said)}"


def _leads_to_lstm(module: Found, nodes: Sequence[Found], lstms: Sequence[Found]) -> bool:
    ends = reachable(nodes, module.gives)
    return any(lstm.reads in ends for lstm in lstms)
