"""One call of a Keras layer, on its way into a draft."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...layers.values import Value
from ..drafts import Array, Draft
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Call:
    """What a layer is, what it reads, and where its numbers are. Its methods raise `ValueError` for
    what can't be served."""

    name: str
    kind: str
    settings: Settings
    reads: Sequence[str]
    others: Sequence[Any]  # arguments that are no tensors
    read_weights: Callable[[], list[Array]]
    draft: Draft

    def read(self) -> str:
        """The only value that it reads."""
        if len(self.reads) != 1:
            raise ValueError(f"reads {len(self.reads)} values, and only one is served")
        return self.reads[0]

    def value(self) -> Value:
        """The form of the only value that it reads."""
        return self.draft.value(self.read())

    def arrays(self, count: int) -> list[Array]:
        """Its variables, of which it must have so many."""
        arrays = self.read_weights()
        if len(arrays) != count:
            raise ValueError(f"has {len(arrays)} variables in the file, expected {count}")
        return arrays

    def add(
        self,
        type: str,
        reads: str | Sequence[str],
        tensors: Mapping[str, Array] | None = None,
        **fields: Any,
    ) -> str:
        """Add a layer under the name of this one."""
        return self.draft.add(type, reads, self.name, tensors, **fields)

    def expect(self, name: str, *allowed: str, default: str | None = None) -> None:
        """Refuse a setting that is none of these words."""
        word = self.settings.function(name, allowed[0] if default is None else default)
        if word not in allowed:
            raise ValueError(f"{name} is {word}, and only {' or '.join(allowed)} is served")

    def refuse(self, *names: str) -> None:
        """Refuse settings that change the numbers if they are on."""
        for name in names:
            if self.settings.flag(name):
                raise ValueError(f"{name} is on, which is not served")

    def expect_columns(self) -> None:
        """Refuse an axis that is not the last one, of a value's columns."""
        axis = self.settings.size("axis", -1)
        if axis not in (-1, 2 if self.draft.value(self.reads[0]).per_step else 1):
            raise ValueError(f"axis is {axis}, and only the last one, -1, is served")
