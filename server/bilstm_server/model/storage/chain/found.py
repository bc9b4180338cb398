"""The modules of a checkpoint, told by the names and shapes of their parameters.

A pure function of names and shapes: no tensor's numbers are read, and nothing is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..weights import some

Shape = tuple[int, ...]

Kind = Literal[
    "lstm",
    "linear",
    "matrix",  # a weight alone: an embedding's, or a linear layer's without bias
    "layer_norm",
    "batch_norm",
    "crf",
    "unserved",  # known, but no tensor tells how it computes, or no layer does it
    "unknown",
]

_RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)_l\d+(_reverse)?")
_CELL = re.compile(r"(weight|bias)_(ih|hh)")
_FIRST = "weight_ih_l0"

# Rows per column of weight_hh in recurrences whose weights have the LSTM's names. An LSTM has 4,
# or more with a projection.
_OTHER_GATES = {3: "a GRU's (3 gates)", 1: "a plain RNN's (1 gate)"}

# A CRF's parameters by the names that its implementations give them.
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
_NORM = re.compile(r"(^|[._\d])(ln|norm|layer_?norm|layernorm)(?![a-z])", re.IGNORECASE)
_OTHER_NORM = re.compile(r"group|inst|batch|rms|(^|\.)(gn|in|bn)\d*$", re.IGNORECASE)
_SIDEWAYS = re.compile(
    r"attn|attention|highway|(^|[._\d])(att|gates?)([._\d]|$)",
    re.IGNORECASE,
)
_INSTANCE_NORM = re.compile(r"inst|(^|\.)in\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """One module: what it is, the floats a row that it reads and gives, and its parameters."""

    name: str  # in the file, without a dot at its end; "" for the file's own
    kind: Kind
    shapes: Mapping[str, Shape]  # of its parameters, by their names in the file
    reads: int = 0
    gives: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)  # layer's name -> file's
    fields: Mapping[str, Any] = field(default_factory=dict)  # of its entry in config.json
    problem: str = ""  # why no layer can be made of it
    doubt: str = ""  # what no tensor tells of it, unless its owner names it in the chain

    @property
    def recurrent(self) -> bool:
        """Whether its names are those of an LSTM, or of a GRU."""
        return any(_RECURRENT.fullmatch(name.rpartition(".")[2]) for name in self.shapes)

    @property
    def weight(self) -> str:
        """The name of its weight in the file, and its shape, for errors."""
        name = self.parameters.get("weight") or next(iter(self.shapes))
        return f"{name} is {list(self.shapes[name])}"

    @property
    def is_affine(self) -> bool:
        """Whether it multiplies with a matrix: an activation may stand behind it."""
        return self.kind in ("linear", "matrix")

    def __str__(self) -> str:
        if self.kind == "unknown" or not self.name:
            return some(self.shapes)
        return self.name


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
    for pattern, make in ((_RECURRENT, _recurrence), (_CELL, _cell)):
        taken = {key: rest.pop(key) for key in list(rest) if pattern.fullmatch(key)}
        if taken:
            found.append(make(name, prefix, taken))
    if rest and (found or not name):
        # Beside another module's own, or nobody's: single parameters, each by itself.
        return found + [_plain(name, prefix, {key: shape}) for key, shape in rest.items()]
    return [*found, _plain(name, prefix, rest)] if rest else found


def _recurrence(name: str, prefix: str, own: Mapping[str, Shape]) -> Found:
    shapes = {prefix + key: shape for key, shape in own.items()}
    parameters = {key: prefix + key for key in own}
    problem, first, state = "", own.get(_FIRST, ()), own.get("weight_hh_l0", ())
    for key, shape in ((_FIRST, first), ("weight_hh_l0", state)):
        if key not in own:
            problem = problem or f"no {prefix}{key} in it"
        elif len(shape) != 2:
            problem = problem or f"{prefix}{key} is {list(shape)}, expected a matrix"
        elif not all(shape):
            problem = problem or f"{prefix}{key} is {list(shape)}: hidden_size must be 1 at least"
    if problem:
        return Found(name, "unserved", shapes, parameters=parameters, problem=problem)
    for gates, whose in _OTHER_GATES.items():
        if state[1] and state[0] == gates * state[1]:
            problem = f"{prefix}weight_hh_l0 is {list(state)}: {whose}, not an LSTM's (4)"
            return Found(name, "unserved", shapes, problem=problem)
    projected = own.get("weight_hr_l0", (0, 0))
    directions = 2 if f"{_FIRST}_reverse" in own else 1
    fields = {
        "hidden_size": first[0] // 4,
        "num_layers": sum(re.fullmatch(r"weight_ih_l\d+", key) is not None for key in own),
        "bias": "bias_ih_l0" in own,
        "bidirectional": directions == 2,
        "proj_size": projected[0] if len(projected) == 2 else 0,
    }
    gives = directions * (fields["proj_size"] or fields["hidden_size"])
    return Found(name, "lstm", shapes, first[1], gives, parameters, fields)


def _cell(name: str, prefix: str, own: Mapping[str, Shape]) -> Found:
    shapes = {prefix + key: shape for key, shape in own.items()}
    problem = (
        f"{prefix}weight_ih is a cell's: no tensor tells how its module goes through the steps"
    )
    return Found(name, "unserved", shapes, problem=problem)


def _crf(name: str, prefix: str, own: Mapping[str, Shape], names: Mapping[str, str]) -> Found:
    shapes = {prefix + key: shape for key, shape in own.items()}
    parameters = {to: prefix + key for key, to in names.items()}
    (tags,) = own[next(iter(names))] if len(own[next(iter(names))]) == 1 else (0,)
    return Found(name, "crf", shapes, tags, 1, parameters)


def _plain(name: str, prefix: str, own: Mapping[str, Shape]) -> Found:
    """A module of weight, bias and running statistics, told by their dimensions."""
    shapes = {prefix + key: shape for key, shape in own.items()}
    parameters = {key: prefix + key for key in own}
    weight, bias = own.get("weight", ()), own.get("bias")
    doubt = _SIDEWAYS.search(name) and (
        f"no tensor tells whether the next layer reads what {name} gives: by its name it may be an "
        "attention's, or a gate's"
    )
    doubt = doubt or ""
    mean = own.get("running_mean", ())
    statistics = {"running_mean", "running_var"}
    if len(mean) == 1 and statistics <= own.keys() <= statistics | {"weight", "bias"}:
        if _INSTANCE_NORM.search(name):
            problem = f"{name} is a norm over the steps of a sequence, which is not served"
            return Found(name, "unserved", shapes, problem=problem)
        fields = {"weight": weight != (), "bias": bias is not None}
        return Found(name, "batch_norm", shapes, mean[0], mean[0], parameters, fields)
    if own.keys() == {"weight"} and len(weight) == 2 and all(weight):
        fields = {"bias": False}
        return Found(name, "matrix", shapes, weight[1], weight[0], parameters, fields, doubt=doubt)
    if own.keys() == {"weight", "bias"} and len(weight) == 2:
        fields = {"bias": True}
        return Found(name, "linear", shapes, weight[1], weight[0], parameters, fields, doubt=doubt)
    if own.keys() == {"weight", "bias"} and len(weight) == 1 and weight == bias:
        if _OTHER_NORM.search(name):
            problem = f"{name} is a norm, and no tensor tells of how many groups, or of what"
            return Found(name, "unserved", shapes, problem=problem)
        doubt = (
            "" if _NORM.search(name) else f"no tensor tells whether {name} computes nn.LayerNorm"
        )
        return Found(name, "layer_norm", shapes, weight[0], weight[0], parameters, doubt=doubt)
    if own.keys() == {"transitions"} and len(own["transitions"]) == 2:
        problem = (
            f"{prefix}transitions is the matrix of a CRF, and no tensor tells whether it is [to, "
            "from] or [from, to]: say it with --crf"
        )
        tags = own["transitions"][0]
        return Found(name, "unserved", shapes, tags, 1, parameters, problem=problem)
    if own.keys() <= {"weight", "bias"} and len(weight) in (3, 4, 5):
        problem = (
            f"{name} is a {len(weight) - 2}-D convolution (weight {list(weight)}): its padding, "
            "stride and activation no tensor tells"
        )
        return Found(name, "unserved", shapes, weight[1], weight[0], problem=problem)
    return Found(name, "unknown", shapes)
