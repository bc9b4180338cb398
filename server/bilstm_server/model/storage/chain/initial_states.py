"""Learned initial states: two tensors beside the only LSTM, one in place of each of h_0 and c_0.

Their shapes are [L*K, P] and [L*K, H], perhaps with a batch of one in between; which is which their
names say, alike but for `h` and `c`, or `hidden` and `cell`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from .found import Found, Shape


def read_initial_states(
    found: Sequence[Found], tensors: dict[str, Tensor]
) -> tuple[list[Found], dict[str, Tensor]]:
    """The modules with such a pair among the LSTM's parameters, and the tensors with the pair as
    [L*K, P] and [L*K, H]; both as they are where names and shapes do not leave one pair."""
    lstms = [module for module in found if module.kind == "lstm"]
    loose = {name: shape for m in found if m.kind == "unknown" for name, shape in m.shapes.items()}
    pairs = list(_pairs(loose, lstms[0])) if len(lstms) == 1 else []
    if len(pairs) != 1:
        return list(found), tensors
    (pair,) = pairs
    (lstm,) = lstms
    owner = replace(
        lstm,
        parameters={**lstm.parameters, "h_0": pair[0], "c_0": pair[1]},
        fields={**lstm.fields, "initial_states": True},
    )
    modules = [owner if module is lstm else _without(module, pair) for module in found]
    rows = {name: tensors[name].flatten(0, -2) for name in pair}
    return [module for module in modules if module.shapes], tensors | rows


def _pairs(loose: dict[str, Shape], lstm: Found) -> Iterator[tuple[str, str]]:
    fields = lstm.fields
    rows = fields["num_layers"] * (2 if fields["bidirectional"] else 1)
    cell = fields["hidden_size"]
    hidden = fields["proj_size"] or cell
    for h in (name for name, shape in loose.items() if _is_states(shape, rows, hidden)):
        for c in (name for name, shape in loose.items() if _is_states(shape, rows, cell)):
            if _are_named(h, c):
                yield h, c


def _is_states(shape: Shape, rows: int, width: int) -> bool:
    return shape in ((rows, width), (rows, 1, width))


def _are_named(h: str, c: str) -> bool:
    """Whether two names are alike but for the words of a hidden state and of a cell's."""
    return any(
        h[: found.start()] + cell + h[found.end() :] == c
        for hidden, cell in (("hidden", "cell"), ("h", "c"), ("H", "C"))
        for found in re.finditer(hidden, h)
    )


def _without(module: Found, names: Sequence[str]) -> Found:
    shapes = {name: shape for name, shape in module.shapes.items() if name not in names}
    return replace(module, shapes=shapes) if module.kind == "unknown" else module
