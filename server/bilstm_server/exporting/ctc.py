"""Labels without repeats and blanks, as a recogniser's greedy decoding leaves them."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from .refusals import Place, Refusal
from .trace import Trace


def greedy(trace: Trace, slot: int, rows: list[int], place: Place) -> int | None:
    """The value of a CTC layer that leaves just these rows of the best classes of each step; None
    if there is no such."""
    labels = trace.labels.get(slot)
    node = trace.graph.slots[slot].node
    if labels is None or node is None or node.type != "argmax":
        return None
    left = [labels[row] for row in rows]
    runs = [label for label, _ in groupby(labels)]
    blanks = set(labels) - set(left)
    fitting = [b for b in sorted(blanks) if [label for label in runs if label != b] == left]
    if len(fitting) > 1 or (not blanks and runs == left):
        raise Refusal(
            "leaves out repeated labels, but the recordings do not show which class is the blank; "
            "give an example in whose steps it is the best one",
            place,
        )
    if not fitting:
        return None
    value = replace(trace.graph.value(slot), sparse=True)
    return trace.graph.add("ctc", node.inputs, value, node.place, blank=fitting[0]).slot
