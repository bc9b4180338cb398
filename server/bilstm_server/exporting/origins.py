"""Remembers for each storage of a recording where its numbers come from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .elements import CONSTANT, Elements
from .refusals import Refusal


class Origins:
    """The elements of all tensors that depend on an input.

    They are kept for storages, so that all views of one see what is written through another.
    """

    def __init__(self) -> None:
        self._flat: dict[int, Tensor] = {}
        self._kept: list[torch.UntypedStorage] = []  # or their addresses would be used again

    def knows(self, tensor: Tensor) -> bool:
        """Whether a number of the tensor depends on an input."""
        flat = self._flat.get(tensor.untyped_storage()._cdata)
        if flat is None:
            return False
        return tensor.numel() > 0 and bool((self._view(flat, tensor) != CONSTANT).any())

    def of(self, tensor: Tensor) -> Elements:
        """The elements of a tensor, in its shape."""
        return self.tensor(tensor).numpy()

    def tensor(self, tensor: Tensor) -> Tensor:
        """As `of`, as a tensor [same shape, same strides] of its own."""
        flat = self._flat.get(tensor.untyped_storage()._cdata)
        if flat is None:
            return torch.full(tensor.shape, CONSTANT, dtype=torch.int64)
        view = self._view(flat, tensor)
        return view.clone()  # keeps strides, but gives what is expanded memory of its own

    def write(self, tensor: Tensor, elements: Elements) -> None:
        """Say where the numbers of a tensor come from, from now on."""
        storage = tensor.untyped_storage()
        flat = self._flat.get(storage._cdata)
        if flat is None:
            if (elements == CONSTANT).all():
                return
            size = storage.nbytes() // tensor.itemsize
            flat = torch.full((size,), CONSTANT, dtype=torch.int64)
            self._flat[storage._cdata] = flat
            self._kept.append(storage)
        array = np.array(np.broadcast_to(elements, tuple(tensor.shape)))
        self._view(flat, tensor).copy_(torch.from_numpy(array))

    @staticmethod
    def _view(flat: Tensor, tensor: Tensor) -> Tensor:
        try:
            return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        except RuntimeError as error:  # the view has numbers of another size
            raise Refusal(
                f"looks at numbers as {tensor.dtype}, which has no layer; leave complex numbers "
                "to the client"
            ) from error
