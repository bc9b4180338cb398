"""A model, how it is called, and what it is expected to become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One model and its example call."""

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    arguments: dict[str, Any] = field(default_factory=dict)  # of `convert`
    lengths: tuple[int, ...] = (1, 2, 7, 23)  # that the module itself takes
    refused: str = ""  # words that must be in the refusal


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The model in eval mode, with numbers as large as training would leave."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
                module.running_mean.normal_()
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 1.5)
            for parameter in module.parameters(recurse=False):
                if bool((parameter == parameter.reshape(-1)[0]).all()):
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def ids(*shape: int, most: int = 20) -> Tensor:
    """Token ids from 1 on."""
    return torch.randint(1, most, shape)
