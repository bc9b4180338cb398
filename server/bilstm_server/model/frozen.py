"""What a kernel packed out of a module's parameters, and whether they are still the module's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import is_
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .kernels import Kernel, KernelUnavailable, choose_kernel, needs_operations

Module = TypeVar("Module", bound=nn.Module)
Packed = TypeVar("Packed")


@dataclass(eq=False)
class Frozen(Generic[Module, Packed]):
    """What a kernel packed out of a module's parameters, beside the tensors that the module had.

    A copy or a pickle has the kernel's name only, and packs anew when it first runs: perhaps on
    another machine, and by the reference kernel where that one can't run.
    """

    kernel: str
    tensors: dict[str, Tensor | None]
    pack: Callable[[Module, Kernel], Packed]
    packed: Packed | None

    @classmethod
    def make(
        cls, module: Module, kernel: Kernel, pack: Callable[[Module, Kernel], Packed]
    ) -> Frozen[Module, Packed]:
        """Pack the parameters of this moment. `pack` is called again for a copy of the module."""
        # Tensors made in inference mode could take no part in autograd later.
        with torch.inference_mode(False), torch.no_grad():
            packed = pack(module, kernel)
        return cls(kernel.name, _tensors(module), pack, packed)

    def is_of(self, module: nn.Module) -> bool:
        """Whether the module still has these tensors.

        `torch.func.functional_call`, a parametrization or an assignment puts others in their
        places. Numbers that were changed in place are not looked at.
        """
        own = _tensors(module).get
        return all(map(is_, map(own, self.tensors), self.tensors.values()))

    def packed_of(self, module: Module) -> Packed | None:
        """What was packed, if it is of the module's parameters. None also where those of a copy
        can't be packed yet, because a transform or a mode is to see every operation.
        """
        if not self.is_of(module):
            return None
        if self.packed is None:
            with torch.inference_mode(False), torch.no_grad():
                present = [own for own in self.tensors.values() if own is not None]
                if not needs_operations(*present):
                    self.packed = self.pack(module, _kernel(self.kernel, present[0].device))
        return self.packed

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"packed": None}


def _tensors(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's parameters and buffers, and those of its parametrizations, by name."""
    tensors: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
    for name, inner in module._modules.items():
        if inner is not None:
            tensors |= {f"{name}.{of}": tensor for of, tensor in _tensors(inner).items()}
    return tensors


def _kernel(name: str, device: torch.device) -> Kernel:
    try:
        return choose_kernel(name, device).kernel
    except KernelUnavailable:
        return choose_kernel("reference", device).kernel
