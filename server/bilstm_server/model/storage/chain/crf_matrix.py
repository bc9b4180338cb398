"""A CRF whose first and last tags are in its matrix of transitions, beside the others.

START is the tag that nothing leads to, and STOP the one that leads to nothing: their scores say so,
as -10000 or minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .found import Found
from .links import Direction

_IMPOSSIBLE = -1_000.0  # a score so low is of a transition that never is


def read_matrix(
    found: Sequence[Found], tensors: dict[str, Tensor], direction: Direction
) -> tuple[list[Found], dict[str, Tensor]]:
    """The modules with the CRF among them, and the tensors with its matrix as [from, to].

    Raises `ValueError` if there is no such matrix, or its numbers do not tell START and STOP.
    """
    matrices = [m for m in found if m.kind == "unserved" and "transitions" in m.parameters]
    if len(matrices) != 1:
        raise ValueError(f"--crf {direction}, but no single matrix of transitions in it")
    (module,) = matrices
    name = module.parameters["transitions"]
    matrix = tensors[name].T if direction == "to-from" else tensors[name]
    impossible = matrix.double() <= _IMPOSSIBLE
    start, stop = (torch.nonzero(impossible.all(dim=dim)).flatten().tolist() for dim in (0, 1))
    if len(start) != 1 or len(stop) != 1 or start == stop:
        raise ValueError(
            f"{name} does not tell START and STOP: expected one tag that nothing leads to, got "
            f"{start}, and one that leads to nothing, got {stop} (by scores below {_IMPOSSIBLE:g})"
        )
    fields = {"start": False, "end": False, "start_tag": start[0], "stop_tag": stop[0]}
    crf = replace(module, kind="crf", problem="", fields=fields)
    modules = [crf if m is module else m for m in found]
    return modules, tensors | {name: matrix.contiguous()}
