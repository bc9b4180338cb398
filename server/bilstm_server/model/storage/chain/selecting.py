"""Which modules of a checkpoint the flags with prefixes mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from ..weights import some
from .found import Found


def common_prefix(modules: Sequence[Found]) -> str:
    """What the names of all tensors begin with, up to a dot: `module.` say. Flags need not have it.

    The name of a module that stands alone is no such prefix.
    """
    paths = [name.split(".")[:-2] for module in modules for name in module.shapes]
    alike = takewhile(lambda words: len(set(words)) == 1, zip(*paths, strict=False))
    return "".join(f"{words[0]}." for words in alike)


def under(modules: Sequence[Found], prefix: str, flag: str) -> list[Found]:
    """The modules whose tensors begin with a prefix, which ends with a dot or is empty.

    Raises `ValueError` if there are none.
    """
    starts = (prefix, common_prefix(modules) + prefix)
    found = [module for module in modules if _prefix_of(module).startswith(starts)]
    if not found or (prefix and not prefix.endswith(".")):
        raise ValueError(f"no head under the prefix {prefix!r} ({flag}); {_near(modules, prefix)}")
    return found


def exactly(candidates: Sequence[Found], modules: Sequence[Found], prefix: str, flag: str) -> Found:
    """The candidate whose tensors' names are the prefix and a parameter's name.

    Raises `ValueError` if there is none.
    """
    starts = (prefix, common_prefix(modules) + prefix)
    for module in candidates:
        if _prefix_of(module) in starts:
            return module
    parameter, part = {
        "--lstm-prefix": ("weight_ih_l0", "lstm"),
        "--embedding-prefix": ("weight", "embedding"),
    }[flag]
    known = [_prefix_of(module) for module in candidates]
    if part == "lstm" or f"{prefix}." in known:
        known = [f"{prefix}."] if f"{prefix}." in known else known
        hint = f"did you mean {' or '.join(map(repr, known[:6]))}?" if known else "there is none"
    else:
        hint = _near(modules, prefix)
    raise ValueError(
        f"no {prefix}{parameter} in it, so no {part} under the prefix {prefix!r} ({flag}); {hint}"
    )


def _near(modules: Sequence[Found], prefix: str) -> str:
    """The prefix that was perhaps meant, or else what there is."""
    if any(_prefix_of(module).startswith(f"{prefix}.") for module in modules):
        return f"did you mean {f'{prefix}.'!r}?"
    names = [name for module in modules if module.kind != "lstm" for name in module.shapes]
    return f"it has: {some([name for name in names if name.startswith(prefix)] or names)}"


def _prefix_of(module: Found) -> str:
    return f"{module.name}." if module.name else ""
