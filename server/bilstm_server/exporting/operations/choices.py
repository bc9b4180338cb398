"""One of two numbers, chosen by what others of the sequence are."""

from __future__ import annotations

import numpy as np

from .. import elements
from ..elements import CONSTANT, Elements
from ..steps import ROWS
from ..trace import Call, operation
from .movement import move
from .numbers import Operand, affine, combine

# Functions that are infinite or NaN somewhere.
_UNBOUNDED = frozenset({"log", "log1p", "sqrt", "rsqrt", "reciprocal", "power", "exp", "expm1"})


def _may_be_infinite(call: Call, slots: list[int]) -> bool:
    """Whether any of these values, or a row that it is computed of, is a quotient or such a
    function."""
    waiting, seen = list(slots), set(slots)
    while waiting:
        node = call.graph.slots[waiting.pop()].node
        if node is None or node.type not in ROWS:
            continue
        function = node.fields.get("function") if node.type == "activation" else None
        if node.type == "divide" or function in _UNBOUNDED:
            return True
        waiting += set(node.inputs) - seen
        seen |= set(node.inputs)
    return False


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
    slots = elements.slots_in(np.concatenate([one.where.reshape(-1), two.where.reshape(-1)]))
    if _may_be_infinite(call, slots):
        raise call.refusal(
            "chooses between numbers of which one may be infinite or NaN, as logarithms, roots and "
            "quotients are, which has no layer; bound what is computed instead, with clamp"
        )
    rest = affine(call, condition, -1.0, 1.0)
    first, second = combine(call, "multiply", condition, one), combine(call, "multiply", rest, two)
    return np.broadcast_to(combine(call, "add", first, second).where, tuple(call.result.shape))
