"""One of two numbers, chosen by what others of the sequence are."""

from __future__ import annotations

import numpy as np

from .. import elements
from ..elements import CONSTANT, Elements
from ..trace import Call, operation
from .movement import move
from .numbers import Operand, affine, combine


@operation("where", "masked_fill")
def chosen(call: Call) -> Elements | tuple[Elements | None, ...]:
    """Of two numbers one, by a third: c a + (1 - c) b. Fixed conditions move numbers only."""
    name = "condition" if call.name == "where" else "mask"
    if not call.trace.depends(call[name]):
        return move(call)
    condition = Operand.of(call, call[name])
    call.check_values(condition.where)
    if any(call.graph.value(slot).ids for slot in elements.slots_in(condition.where)):
        raise call.refusal("chooses by ids, which has no layer")
    own = Operand.of(call, call["self"])
    other = Operand.of(call, call["other" if call.name == "where" else "value"])
    one, two = (own, other) if call.name == "where" else (other, own)
    if not all(np.isfinite(x.numbers[x.where == CONSTANT]).all() for x in (one, two)):
        raise call.refusal("chooses between numbers of which one is infinite, which has no layer")
    rest = affine(call, condition, -1.0, 1.0)
    first, second = combine(call, "multiply", condition, one), combine(call, "multiply", rest, two)
    return np.broadcast_to(combine(call, "add", first, second).where, tuple(call.result.shape))
