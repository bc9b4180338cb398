"""What was packed out of a module's parameters, and whether they are still the module's."""

from __future__ import annotations

from operator import is_
from typing import Generic, NamedTuple, TypeVar

from torch import nn

T = TypeVar("T")


class Frozen(NamedTuple, Generic[T]):
    """What a kernel made of a module's parameters, beside those parameters."""

    packed: T
    parameters: dict[str, nn.Parameter | None]

    def is_of(self, module: nn.Module) -> bool:
        """Whether the module still has these parameters.

        `torch.func.functional_call`, a parametrization or an assignment puts others in their
        places. Numbers that were changed in place are not looked at.
        """
        own = module._parameters.get
        return all(map(is_, map(own, self.parameters), self.parameters.values()))
