"""The module and its example where they are recorded: on the CPU, in float32 at least."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .example.structure import leaves, mapped
from .raised import owners_code
from .refusals import ExportError

T = TypeVar("T")


def bare(module: nn.Module) -> nn.Module:
    """The owner's module, within what trains it on several devices or compiles it. Raises
    `ExportError` for one that has no code."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, wrappers) or "_orig_mod" in module._modules:
        module = module.get_submodule("_orig_mod" if "_orig_mod" in module._modules else "module")
    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError(
            "a scripted or traced module has no code to record; export the module that it was made "
            "of"
        )
    return module


def on_cpu(module: nn.Module) -> nn.Module:
    """The module itself, or a copy if some of it is elsewhere, or in floats of fewer bits."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(_is_placed(tensor) for tensor in tensors):
        return module
    with owners_code(
        f"{type(module).__name__}: no copy of it on the CPU in float32; export module.cpu().float()"
    ):
        return copy.deepcopy(module).to("cpu").float()


def example_on_cpu(value: T) -> T:
    """The same arguments, their tensors on the CPU, and floats in float32 at least."""
    if all(not isinstance(leaf, Tensor) or _is_placed(leaf) for _, leaf in leaves(value)):
        return value
    placed: T = mapped(value, lambda _, leaf: _placed(leaf))
    return placed


def _is_placed(tensor: Tensor) -> bool:
    is_narrow = tensor.is_floating_point() and tensor.itemsize < torch.float32.itemsize
    return tensor.device.type == "cpu" and not is_narrow


def _placed(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.cpu() if _is_placed(leaf.cpu()) else leaf.cpu().float()
