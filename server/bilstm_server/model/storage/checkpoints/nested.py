"""Which of a file's dictionaries is the model's: the one that holds a recurrence's weights.

A pure function of what the file holds, at any depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from ....quoting import listed, quoted

SELF = "."  # the key of the outermost dictionary

# What every recurrence has, also where it is weight-normed or pruned; a cell has no layers.
_RECURRENCE = re.compile(
    r"(.*\.)?(parametrizations\.)?weight_ih(_l0)?(_g|_v|_orig|_raw|\.original\d?)?"
)
_NUMBERED = re.compile(r"(^|\.)[0-9]+(\.|$)")  # as the states of an optimizer are


Wanted = Callable[[Mapping[str, Tensor]], bool]


def has_recurrence(tensors: Mapping[str, Tensor]) -> bool:
    """Whether an LSTM, or another recurrence, has its weights among these tensors."""
    return any(_RECURRENCE.fullmatch(name) for name in tensors)


class Chosen(NamedTuple):
    """One dictionary of a file: its tensors by name, its key, and those of others that may be of a
    model, too."""

    tensors: dict[str, Tensor]
    key: str
    others: tuple[str, ...]


def choose(content: object, key: str | None, wanted: Wanted = has_recurrence) -> Chosen:
    """Take the dictionary of tensors under `key`, or if None the only one that is `wanted`.

    A key is the keys on the way to the dictionary, with dots between them. Raises `ValueError` with
    what there is instead.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensors in _dictionaries(content):
        found[name + "'" * (name in found)] = tensors  # a key with a dot may be that of another
    fit = [name for name, tensors in found.items() if wanted(tensors)]
    if key is not None:
        if key not in found:
            have = f"there are {listed(found)}" if found else "it has none"
            raise ValueError(f"--key {quoted(key)} is no dictionary of tensors in it; {have}")
        chosen = key
    elif len(fit) > 1:
        what = "with an LSTM" if wanted is has_recurrence else "of the module's tensors"
        raise ValueError(f"holds several dictionaries {what}: {listed(fit)}; take one with --key")
    elif not fit and SELF not in found:
        raise ValueError(_instead(content, list(found), wanted))
    else:
        chosen = (fit or [SELF])[0]
    others = (name for name in found if name != chosen and not _NUMBERED.search(name))
    return Chosen(found[chosen], chosen, tuple(others))


def _dictionaries(content: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary that names tensors, by its key, in the order of the file."""
    waiting: list[tuple[tuple[object, ...], object]] = [((), content)]
    seen = set()  # a file may hold a dictionary that holds itself
    while waiting:
        keys, value = waiting.pop()
        if id(value) in seen or not isinstance(value, Mapping | list | tuple):
            continue
        seen.add(id(value))
        items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
        waiting += [((*keys, key), inner) for key, inner in reversed(items)]
        if isinstance(value, Mapping):
            tensors = {k: t for k, t in items if isinstance(k, str) and isinstance(t, Tensor)}
            if tensors:
                yield ".".join(map(str, keys)) or SELF, tensors


def _instead(content: object, found: list[str], wanted: Wanted) -> str:
    """What the file holds, and how to save what is needed."""
    advice = "save with torch.save(model.state_dict(), …)"
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        return f"holds a {kind} instead of a state_dict (names to tensors); {advice}"
    if found:
        what = "LSTM" if wanted is has_recurrence else "tensor of the module's"
        return f"holds no {what} in any of its dictionaries of tensors ({listed(found)}); {advice}"
    names = listed([str(name) for name in content]) or "nothing"
    return f"holds {names} instead of a state_dict (names to tensors); {advice}"
