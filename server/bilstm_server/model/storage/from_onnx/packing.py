"""What exporters make of packed sequences: they are put in an order by their lengths, and back.

Here sequences have no padding and need no order: lengths are an input that no layer reads, and all
that is made of it, an order or its inverse, is the same as it.
"""

from __future__ import annotations

import numpy as np

from .axes import SEQUENCES, Dim, Rows
from .nodes import Node, Tensor


def is_order(node: Node, tensor: Tensor | None) -> bool:
    """Whether a tensor is the lengths of the sequences, or an order by them."""
    return (
        isinstance(tensor, Rows)
        and [axis.rows for axis in tensor.axes] == [(SEQUENCES,)]
        and tensor.value in node.draft.inputs
        and tensor.value not in node.draft.values
    )


def sort(node: Node) -> list[Rows]:
    """`TopK` of all lengths: they and their order."""
    if not is_order(node, node.inputs[0]):
        raise ValueError("sorts what is no lengths of sequences, which is not served")
    return [node.rows(), node.rows()]


def invert(node: Node) -> Rows:
    """`ScatterElements` of 0, 1, 2 … at an order's places: the order that undoes it."""
    numbers, order = node.numbers(2).tolist(), node.rows(1)
    in_order = list(range(order.axes[0].size or 0))  # where the file fixes how many there are
    if not is_order(node, order) or numbers not in (count().tolist(), in_order):
        raise ValueError("writes numbers at places that are no order of sequences")
    return order


def count() -> np.ndarray:
    """What `Range` gives from 0 to the number of sequences: nothing that arithmetic takes."""
    return np.array([Dim((SEQUENCES,))], object)
