"""Where activations stand between the layers of a head: behind each linear layer but the last."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .found import Found


class Gap(NamedTuple):
    """A linear layer, the norms behind it, and the layer that reads what these give, if any does.
    An activation may stand behind the linear layer, or behind one of the norms."""

    linear: Found
    norms: tuple[Found, ...]
    reader: Found | None

    @property
    def behind(self) -> Found | None:
        """The layer that an activation stands behind: where there is no norm, or where the numbers
        of a Sequential leave one place."""
        if not self.norms:
            return self.linear
        numbers = [number(module) for module in (self.linear, *self.norms, self.reader)]
        if None in numbers or len({_container(m) for m in (self.linear, *self.norms)}) > 1:
            return None
        places = [
            module
            for module, own, following in zip(
                (self.linear, *self.norms), numbers, numbers[1:], strict=False
            )
            if own is not None and following is not None and following - own > 1
        ]
        return places[0] if len(places) == 1 else None


def gaps(modules: Sequence[Found], is_last: bool) -> list[Gap]:
    """Each linear layer behind which an activation may stand. If `is_last`, nothing reads what the
    last module gives."""
    found = []
    affine = [i for i, module in enumerate(modules) if module.is_affine]
    for i, following in pairwise([*affine, len(modules)]):
        norms = tuple(modules[i + 1 : following])
        reader = modules[following] if following < len(modules) else None
        if norms or reader or not is_last:
            found.append(Gap(modules[i], norms, reader))
    return found


def number(module: Found | None) -> int | None:
    """The module's place in a Sequential, by its name; None if it has none."""
    last = module.name.rpartition(".")[2] if module else ""
    return int(last) if re.fullmatch("[0-9]{1,9}", last) else None


def in_one_sequential(a: Found, b: Found) -> bool:
    """Whether two modules have their places in one Sequential, by their names."""
    numbered = number(a) is not None and number(b) is not None
    return numbered and _container(a) == _container(b)


def _container(module: Found) -> str:
    return module.name.rpartition(".")[0]
