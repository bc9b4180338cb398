"""What a module keeps from one call to the next, put back, so that all calls begin alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .example.structure import leaves


@dataclass
class _Part:
    """One module: its attributes, and copies of those that a call could change in place."""

    module: nn.Module
    attributes: dict[str, Any]
    registered: dict[str, dict[str, Any]]
    containers: list[tuple[Any, Any]]
    tensors: list[tuple[Tensor, Tensor, int]]

    @classmethod
    def of(cls, module: nn.Module) -> _Part:
        attributes = dict(vars(module))
        registered = {
            name: dict(attributes[name]) for name in ("_buffers", "_parameters", "_modules")
        }
        own = [value for name, value in attributes.items() if name not in registered]
        containers = [(value, value.copy()) for value in own if type(value) in (list, dict)]
        tensors = [
            leaf
            for leaf in tree_leaves([own, registered["_buffers"]])
            if isinstance(leaf, Tensor)
            and not isinstance(leaf, nn.Parameter)
            and not leaf.is_inference()
        ]
        copies = [(tensor, tensor.detach().clone(), tensor._version) for tensor in tensors]
        return cls(module, attributes, registered, containers, copies)

    def changed(self) -> Iterator[str]:
        """Names of tensors and numbers that are not what they were."""
        in_place = {id(tensor) for tensor, _, version in self.tensors if tensor._version != version}
        now = vars(self.module)
        for before, after in (
            (self.registered["_buffers"], now["_buffers"]),
            ({k: v for k, v in self.attributes.items() if not k.startswith("_")}, now),
        ):
            for name, value in before.items():
                is_state = isinstance(value, Tensor | int | float) and name != "training"
                if is_state and (after.get(name) is not value or id(value) in in_place):
                    yield name

    def put_back(self) -> None:
        for value, before in self.containers:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)
        for name, before in self.registered.items():
            its = self.attributes[name]
            its.clear()
            its.update(before)
        vars(self.module).clear()
        vars(self.module).update(self.attributes)
        for tensor, copy, version in self.tensors:
            if tensor._version != version:
                tensor.data.copy_(copy)


class as_before:  # noqa: N801 - a context manager, which as a function would be in tracebacks
    """Within, the module may change its attributes and buffers; afterwards they are as before."""

    def __init__(self, module: nn.Module):
        self._parts = {
            name: _Part.of(part) for name, part in module.named_modules() if not _is_scripted(part)
        }
        self.changed: list[str] = []

    def __enter__(self) -> as_before:
        return self

    def __exit__(self, *error: object) -> None:
        for prefix, part in self._parts.items():
            self.changed += [f"{prefix}.{name}".strip(".") for name in part.changed()]
            part.put_back()


def states_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that modules have as plain attributes or buffers, with their names."""
    for prefix, part in module.named_modules():
        if _is_scripted(part):
            continue
        given = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        for name, value in (given | part._buffers).items():
            for _, leaf in leaves(value):
                if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter):
                    yield f"{prefix}.{name}".strip("."), leaf


def _is_scripted(module: nn.Module) -> bool:
    """Whether its attributes are out of Python's reach."""
    return isinstance(module, torch.jit.ScriptModule)
