"""`Case`: a layer, and torch's own computation of it.

A judge takes the layer's state_dict and the inputs of one sequence: [T, width] of those that have
rows for steps, [1, width] of others. It returns what the layer gives of that sequence, all parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

Results = Tensor | tuple[Tensor, ...]
Judge = Callable[..., Results]


@dataclass(frozen=True)
class Case:
    """A layer's entry of `config.json`, and what it reads."""

    layer: dict[str, Any]
    judge: Judge
    widths: tuple[int, ...] = (6,)
    per_sequence: tuple[int, ...] = ()  # which inputs have one row for each sequence
    parts: tuple[str, ...] = ("",)
    min_steps: int = 1


CASES: dict[str, Case] = {}


def case(
    name: str, judge: Judge, *widths: int, parts: tuple[str, ...] = ("",), **layer: Any
) -> None:
    options = {key: layer.pop(key) for key in ("per_sequence", "min_steps") if key in layer}
    if layer["type"] != name.split(",")[0]:
        name = f"{layer['type']}, {name}"
    CASES[name] = Case(layer, judge, widths or (6,), parts=parts, **options)


def module(make: Callable[[], nn.Module]) -> Judge:
    """Torch's own module, with the layer's state_dict."""

    def judge(state: dict[str, Tensor], x: Tensor) -> Tensor:
        own = make().to(x.dtype).eval()
        assert own.state_dict().keys() - {"num_batches_tracked"} == state.keys()
        y: Tensor = functional_call(own, state, x)
        return y

    return judge


def channels(make: Callable[[], nn.Module]) -> Judge:
    """As `module`, of one that takes [B, C, T]."""
    judge = module(make)

    def transposed(state: dict[str, Tensor], x: Tensor) -> Results:
        y = judge(state, x.t().unsqueeze(0))
        assert isinstance(y, Tensor)
        return y.squeeze(0).t()

    return transposed
