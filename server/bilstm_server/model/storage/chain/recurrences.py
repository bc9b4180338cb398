"""Recurrences among a checkpoint's modules: LSTMs, and what has such names and is none."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .found import Found, Shape

PARAMETER = re.compile(r"(weight|bias)_(ih|hh|hr)_l\d+(_reverse)?")  # of nn.LSTM, and nn.GRU
CELL_PARAMETER = re.compile(r"(weight|bias)_(ih|hh)")
_FIRST = "weight_ih_l0"

# Rows per column of weight_hh in recurrences whose weights have the LSTM's names. An LSTM has 4,
# or more with a projection.
_OTHER_GATES = {3: "a GRU's (3 gates)", 1: "a plain RNN's (1 gate)"}


def find_recurrence(name: str, prefix: str, own: Mapping[str, Shape]) -> Found:
    """The LSTM with these parameters, or what it is instead."""
    shapes = {prefix + key: shape for key, shape in own.items()}
    if problem := _problem(prefix, own):
        return Found(name, "unserved", shapes, problem=problem, is_recurrent=True)
    first, projected = own[_FIRST], own.get("weight_hr_l0", (0, 0))
    directions = 2 if f"{_FIRST}_reverse" in own else 1
    fields = {
        "hidden_size": first[0] // 4,
        "num_layers": sum(re.fullmatch(r"weight_ih_l\d+", key) is not None for key in own),
        "bias": "bias_ih_l0" in own,
        "bidirectional": directions == 2,
        "proj_size": projected[0] if len(projected) == 2 else 0,
    }
    gives = directions * (fields["proj_size"] or fields["hidden_size"])
    parameters = {key: prefix + key for key in own}
    return Found(name, "lstm", shapes, first[1], gives, parameters, fields, is_recurrent=True)


def find_cell(name: str, prefix: str, own: Mapping[str, Shape]) -> Found:
    """A cell, whose module's code goes through the steps."""
    shapes = {prefix + key: shape for key, shape in own.items()}
    problem = f"{prefix}weight_ih is a cell's: no tensor tells how its module goes through steps"
    return Found(name, "unserved", shapes, problem=problem)


def _problem(prefix: str, own: Mapping[str, Shape]) -> str:
    """Why the parameters are no LSTM's; empty if they may be."""
    for key in (_FIRST, "weight_hh_l0"):
        if key not in own:
            return f"no {prefix}{key} in it"
        if len(own[key]) != 2:
            return f"{prefix}{key} is {list(own[key])}, expected a matrix"
        if not all(own[key]):
            return f"{prefix}{key} is {list(own[key])}: hidden_size must be 1 at least"
    rows, columns = own["weight_hh_l0"]
    for gates, whose in _OTHER_GATES.items():
        if rows == gates * columns:
            return f"{prefix}weight_hh_l0 is {[rows, columns]}: {whose}, not an LSTM's (4)"
    return ""
