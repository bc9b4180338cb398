"""`PackingLayer`: a layer that runs what a kernel makes of its parameters, and for how long."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from ..frozen import Frozen
from ..kernels import Kernel
from .interface import Layer

Packed = TypeVar("Packed")


class PackingLayer(Layer, Generic[Packed]):
    """A layer that runs what a kernel packed out of its parameters, once it is frozen.

    Training mode, another dtype or device, and loading a state_dict thaw it.
    """

    _frozen: Frozen[PackingLayer[Packed], Packed] | None = None

    @abstractmethod
    def pack(self, kernel: Kernel) -> Packed:
        """What the kernel makes of the parameters of this moment."""

    @property
    def packed(self) -> Packed | None:
        """What was packed, or None where the parameters themselves are to be used."""
        return None if self._frozen is None else self._frozen.packed_of(self)

    def freeze(self, kernel: Kernel) -> None:
        self._frozen = Frozen.make(self, kernel, _pack)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._frozen = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._frozen = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._frozen = None
        super()._load_from_state_dict(*args, **kwargs)


def _pack(layer: PackingLayer[Packed], kernel: Kernel) -> Packed:
    return layer.pack(kernel)
