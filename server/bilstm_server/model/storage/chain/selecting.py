"""Which modules of a checkpoint the flags with prefixes mean."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

from ....quoting import listed
from .found import Found


def common_prefix(modules: Sequence[Found]) -> str:
    """What the names of all tensors begin with, up to a dot: `module.` say. Flags need not have it.

    A name that would be nothing without it keeps its last word.
    """
    names = [name for module in modules for name in module.shapes]
    words = commonprefix([name.split(".")[:-2] for name in names])
    return "".join(f"{word}." for word in words)


def under(modules: Sequence[Found], prefix: str, flag: str) -> list[Found]:
    """The modules whose tensors begin with a prefix that ends with a dot, or is empty.

    Raises `ValueError` if there are none.
    """
    starts = (prefix, common_prefix(modules) + prefix)
    if not prefix or prefix.endswith("."):
        found = [module for module in modules if f"{module.name}.".startswith(starts)]
        if found:
            return found
    raise ValueError(f"nothing in it has the prefix {prefix!r} ({flag}); {_hint(modules, prefix)}")


def exactly(modules: Sequence[Found], prefix: str, kinds: Sequence[str], flag: str) -> Found:
    """The module of these kinds whose tensors' names are the prefix and a parameter's.

    Raises `ValueError` if there is none.
    """
    starts = (prefix, common_prefix(modules) + prefix)
    wanted = [module for module in modules if module.kind in kinds]
    for module in wanted:
        if (f"{module.name}." if module.name else "") in starts:
            return module
    raise ValueError(
        f"no {kinds[0]} in it under the prefix {prefix!r} ({flag}); {_hint(wanted, prefix, all=True)}"
    )


def _hint(modules: Sequence[Found], prefix: str, all: bool = False) -> str:
    prefixes = [f"{module.name}." if module.name else "" for module in modules]
    near = [own for own in prefixes if own == f"{prefix}."]
    if near or (all and prefixes):
        return f"did you mean {' or '.join(map(repr, near or prefixes[:6]))}?"
    return f"it has: {listed([name for module in modules for name in module.shapes])}"
