"""What layouts are made of: modules under names, LSTMs, a CRF that tries all paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A module, what it gives for one sequence without a batch dimension, and the flags that say
    what its tensors do not."""

    make: Callable[[], nn.Module]
    inputs: Mapping[str, int]  # by the config's names: ids, or if negative the width of floats
    outputs: Callable[..., Outputs]  # (module, *inputs) -> by the config's names
    flags: Mapping[str, Any] = field(default_factory=dict)
    wrapped: Callable[[dict[str, Tensor]], object] = dict

    def module(self, seed: int = 0) -> nn.Module:
        """The module, with constants that are none of their initial ones."""
        torch.manual_seed(seed)
        module = self.make()
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif (
                    tensor.is_floating_point() and "crf." not in name and "transitions" not in name
                ):
                    tensor.add_(torch.randn_like(tensor) * 0.3)
        return module.eval()

    def draw(self, steps: int) -> list[Tensor]:
        """A sequence of so many steps."""
        generator = torch.Generator().manual_seed(steps)
        return [
            torch.randint(size, (steps,), generator=generator)
            if size > 0
            else torch.randn(steps, -size, generator=generator)
            for size in self.inputs.values()
        ]


class Modules(nn.Module):
    """Modules under names; a dot in a name puts it into another."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def lstm(width: int, hidden: int, layers: int = 1, **options: Any) -> nn.LSTM:
    return nn.LSTM(width, hidden, layers, batch_first=True, **({"bidirectional": True} | options))


def run(module: nn.Module, x: Tensor) -> Tensor:
    """The output of an LSTM for one sequence, [T, D] -> [T, K*P]."""
    return module(x[None])[0][0]  # type: ignore[no-any-return]


def final(y: Tensor) -> Tensor:
    """torch.cat((h_n[-2], h_n[-1]), 1) of one sequence."""
    width = y.shape[1] // 2
    return torch.cat([y[-1, :width], y[0, width:]])


def best_path(emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The best path by trying all: [T, C], [from, to], [C], [C] -> [T]"""
    paths = torch.cartesian_prod(*[torch.arange(emissions.shape[1])] * len(emissions))
    paths = paths.view(-1, len(emissions))
    scores = start[paths[:, 0]] + end[paths[:, -1]]
    for step, row in enumerate(emissions):
        scores = scores + row[paths[:, step]]
        if step:
            scores = scores + transitions[paths[:, step - 1], paths[:, step]]
    return paths[scores.argmax()]


class Crf(nn.Module):
    """Scores [from, to], of first tags and of last ones; perhaps with a mask of what may be."""

    def __init__(self, tags: int, mask: Tensor | None = None):
        super().__init__()
        self.transitions = nn.Parameter(torch.randn(tags, tags))
        self.start_transitions = nn.Parameter(torch.randn(tags))
        self.end_transitions = nn.Parameter(torch.randn(tags))
        if mask is not None:
            self._constraint_mask = nn.Parameter(mask, requires_grad=False)

    def labels(self, emissions: Tensor) -> Tensor:
        tags = len(self.transitions)
        mask = getattr(self, "_constraint_mask", torch.ones(tags + 2, tags + 2))
        impossible = torch.where(mask > 0, 0.0, -torch.inf)
        return best_path(
            emissions,
            self.transitions + impossible[:tags, :tags],
            self.start_transitions + impossible[tags, :tags],
            self.end_transitions + impossible[:tags, tags + 1],
        )
