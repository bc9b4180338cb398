"""The modules of a checkpoint, told by the names and shapes of their parameters.

A pure function of names and shapes: no tensor's numbers are read, and nothing is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from .found import Found, Shape
from .recurrences import CELL_PARAMETER, PARAMETER, find_cell, find_recurrence

# A CRF's parameters by the names that its implementations give them; transitions are [from, to].
_CRFS: tuple[dict[str, str], ...] = (
    {
        "start_transitions": "start_transitions",
        "end_transitions": "end_transitions",
        "transitions": "transitions",
    },
    {
        "start_trans": "start_transitions",
        "end_trans": "end_transitions",
        "trans_matrix": "transitions",
    },
)
_LAYER_NORM = re.compile(r"(^|[._\d])(ln|(layer_?)?norm(alization)?)(?![a-z])", re.IGNORECASE)
_OTHER_NORM = re.compile(r"group|inst|batch|rms|(^|\.)(gn|in|bn)\d*$", re.IGNORECASE)
_INSTANCE_NORM = re.compile(r"inst|(^|\.)in\d*$", re.IGNORECASE)
# What weights or gates other layers' values, and is not read by the next one.
_SIDEWAYS = re.compile(r"attn|attention|highway|(^|[._\d])(att|gates?)([._\d]|$)", re.IGNORECASE)
_STATISTICS = {"running_mean", "running_var"}


def find_modules(shapes: Mapping[str, Shape]) -> list[Found]:
    """Every module that has tensors of its own, in the order of the file."""
    modules: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        module, _, parameter = name.rpartition(".")
        modules.setdefault(module, {})[parameter] = shape
    return [found for name, own in modules.items() for found in _found_in(name, own)]


def _found_in(name: str, own: Mapping[str, Shape]) -> list[Found]:
    """The modules whose parameters stand under one name: usually one, but a CRF's or an LSTM's may
    stand beside others.
    """
    prefix = f"{name}." if name else ""
    found = []
    rest = dict(own)
    for names in _CRFS:
        if names.keys() <= rest.keys():
            taken = {key: rest.pop(key) for key in names}
            found.append(_crf(name, prefix, taken, names))
    for pattern, make in ((PARAMETER, find_recurrence), (CELL_PARAMETER, find_cell)):
        taken = {key: rest.pop(key) for key in list(rest) if pattern.fullmatch(key)}
        if taken:
            found.append(make(name, prefix, taken))
    if rest and (found or not name):
        # Beside another module's own, or nobody's: single parameters, each by itself.
        return found + [_plain(name, prefix, {key: shape}) for key, shape in rest.items()]
    return [*found, _plain(name, prefix, rest)] if rest else found


def _crf(name: str, prefix: str, own: Mapping[str, Shape], names: Mapping[str, str]) -> Found:
    shapes = {prefix + key: shape for key, shape in own.items()}
    parameters = {to: prefix + key for key, to in names.items()}
    shape = own[next(iter(names))]  # of the start scores
    tags = shape[0] if len(shape) == 1 else 0
    return Found(name, "crf", shapes, tags, 1, parameters)


def _plain(name: str, prefix: str, own: Mapping[str, Shape]) -> Found:
    """A module of weight, bias and running statistics, told by their dimensions."""
    shapes = {prefix + key: shape for key, shape in own.items()}
    parameters = {key: prefix + key for key in own}
    weight = own.get("weight", ())
    if len(own.get("running_mean", ())) == 1 and own.keys() >= _STATISTICS:
        if own.keys() <= _STATISTICS | {"weight", "bias"}:
            return _batch_norm(name, shapes, parameters, own)
    elif own.keys() == {"weight"} and len(weight) == 2:
        return _affine("matrix", name, shapes, parameters, weight)
    elif own.keys() == {"weight", "bias"} and len(weight) == 2:
        return _affine("linear", name, shapes, parameters, weight)
    elif own.keys() == {"weight", "bias"} and len(weight) == 1 and weight == own["bias"]:
        return _norm(name, shapes, parameters, weight[0])
    elif own.keys() <= {"weight", "bias"} and len(weight) in (3, 4, 5):
        problem = (
            f"{name} is a {len(weight) - 2}-D convolution (weight {list(weight)}): its padding, "
            "stride and activation no tensor tells"
        )
        return Found(name, "unserved", shapes, weight[1], weight[0], problem=problem)
    elif own.keys() == {"transitions"} and len(own["transitions"]) == 2:
        problem = (
            f"{prefix}transitions is the matrix of a CRF, and no tensor tells whether it is [to, "
            "from] or [from, to]: say it with --crf"
        )
        tags = own["transitions"][0]
        return Found(name, "unserved", shapes, tags, 1, parameters, problem=problem)
    return Found(name, "unknown", shapes)


def _affine(
    kind: Literal["matrix", "linear"],
    name: str,
    shapes: Mapping[str, Shape],
    parameters: Mapping[str, str],
    weight: Shape,
) -> Found:
    doubt = ""
    if _SIDEWAYS.search(name):
        doubt = (
            f"no tensor tells whether the next layer reads what {name} gives: by its name it may "
            "be an attention's, or a gate's"
        )
    gives, reads = weight
    fields = {"bias": kind == "linear"}
    return Found(name, kind, shapes, reads, gives, parameters, fields, doubt=doubt)


def _norm(
    name: str, shapes: Mapping[str, Shape], parameters: Mapping[str, str], width: int
) -> Found:
    if _OTHER_NORM.search(name):
        problem = f"{name} is a norm, and no tensor tells of how many groups, or of what"
        return Found(name, "unserved", shapes, problem=problem)
    doubt = ""
    if not _LAYER_NORM.search(name):
        doubt = f"no tensor tells whether {name} computes nn.LayerNorm"
    return Found(name, "layer_norm", shapes, width, width, parameters, doubt=doubt)


def _batch_norm(
    name: str,
    shapes: Mapping[str, Shape],
    parameters: Mapping[str, str],
    own: Mapping[str, Shape],
) -> Found:
    if _INSTANCE_NORM.search(name):
        problem = f"{name} is a norm over the steps of a sequence, which is not served"
        return Found(name, "unserved", shapes, problem=problem)
    (width,) = own["running_mean"]
    fields = {"weight": "weight" in own, "bias": "bias" in own}
    return Found(name, "batch_norm", shapes, width, width, parameters, fields)
