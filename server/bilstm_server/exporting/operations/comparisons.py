"""Comparisons: of ids with the one for padding, and those that come out alike for all steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import elements
from ..elements import CONSTANT, Elements
from ..trace import Call, operation
from .numbers import Operand, affine, function, other_number
from .pointwise import apply

_NAMES = ("eq", "ne", "gt", "ge", "lt", "le")

# The sign of what must be positive, and whether the comparison is the other one.
_BEYOND = {"gt": (1.0, False), "le": (1.0, True), "lt": (-1.0, False), "ge": (-1.0, True)}


@operation(*_NAMES)
def compare(call: Call) -> Elements:
    """A mask of what is no padding is true at each step of a lone sequence."""
    where = call.elements("self")
    number = other_number(call)
    return compared(call, where, call.result.detach().cpu().numpy(), number, call.name)


@operation("isnan", "isinf", "isfinite", "isneginf", "isposinf")
def finite(call: Call) -> Elements:
    """Numbers are taken to be finite."""
    call.check_all()
    call.trace.note(
        f"{call.place}: looks for numbers that are not finite; what is served takes all as finite, "
        "and gives NaN where it gets NaN."
    )
    return np.array(CONSTANT)


@operation(
    "logical_not",
    "bitwise_not",
    "logical_and",
    "logical_or",
    "bitwise_and",
    "bitwise_or",
    "any",
    "all",
)
def logical(call: Call) -> Elements:
    """Logic of what depends on the sequence."""
    call.check_all()
    raise call.refusal("decides by the numbers of a sequence, which has no layer")


@operation("sign")
def sign(call: Call) -> Elements:
    """Of ids it tells padding, which is 0, from the others; of floats it is a function."""
    where = call.elements("self")
    if _input_of(call, where) is None:
        return apply(call, "sign", where)
    return compared(call, where, call.result.detach().cpu().numpy(), 0, "ne")


def compared(call: Call, where: Elements, result: Any, number: float | None, name: str) -> Elements:
    """No elements, if the comparison has one result for all steps, as a mask of padding has."""
    call.check_values(where)
    is_alike = bool((result == result.flat[0]).all())
    ids = _input_of(call, where)
    tells_padding = name in ("eq", "ne") or (name, number) == ("gt", 0)
    if ids is not None and number is not None and tells_padding:
        if call.trace.padding.get(ids, number) != number:
            raise call.refusal(
                f"tells the id {number:g} from the others, and so does the code for the id "
                f"{call.trace.padding[ids]}; only one can be padding, which is refused when served"
            )
        if not is_alike:
            call.trace.padded[ids] = int(number)
            raise call.refusal(
                f"finds the id {number:g} in some steps and not in others; give an example "
                "without padding, or its lengths"
            )
        call.trace.padding[ids] = int(number)
        return np.array(CONSTANT)
    is_floats = not any(call.graph.value(slot).ids for slot in elements.slots_in(where))
    if is_floats and is_alike and name in ("eq", "ne") and number == 0:
        call.trace.note(
            f"{call.place}: takes what is 0 for padding; what is served takes every step as it is."
        )
        return np.array(CONSTANT)
    if is_floats and number is not None and np.isfinite(number) and name in _BEYOND:
        return _steps_beyond(call, where, number, name)
    raise call.refusal("decides by the numbers of a sequence, which has no layer")


def _steps_beyond(call: Call, where: Elements, number: float, name: str) -> Elements:
    """One where a number is beyond another that is fixed, else zero: max(0, sign(x - number))."""
    sign, is_other = _BEYOND[name]
    x = affine(call, Operand(where, np.zeros(where.shape)), sign, -sign * number)
    found = function(call, "relu", function(call, "sign", x))
    return affine(call, found, -1.0, 1.0).where if is_other else found.where


def _input_of(call: Call, where: Elements) -> int | None:
    """The input of ids that all elements belong to, if it is one."""
    slots = elements.slots_in(where)
    if len(slots) != 1:
        return None
    slot = call.graph.slots[slots[0]]
    return slots[0] if slot.input and slot.value.ids else None
