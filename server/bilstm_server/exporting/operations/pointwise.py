"""Operations on each number by itself, of one operand or of several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..columns import value_of
from ..elements import Elements
from ..rows import Aligned
from ..trace import Call, numbers, operation
from .numbers import Operand, affine, combine, function, other_number

# Operations without parameters, by the name that the layer has for them.
_FUNCTIONS = {
    "abs": "abs", "absolute": "abs", "cos": "cos", "erf": "erf", "exp": "exp", "expm1": "expm1",
    "hardsigmoid": "hardsigmoid", "hardswish": "hardswish", "log": "log", "log1p": "log1p",
    "mish": "mish", "reciprocal": "reciprocal", "relu": "relu", "relu6": "relu6",
    "rsqrt": "rsqrt", "selu": "selu", "sigmoid": "sigmoid", "silu": "silu", "sin": "sin",
    "special_erf": "erf", "sqrt": "sqrt", "square": "square", "tanh": "tanh",
}  # fmt: skip


def apply(call: Call, name: str, where: Elements, **parameters: float) -> Elements:
    """A function of each number of a tensor."""
    return function(call, name, Operand(where, np.zeros(where.shape)), **parameters).where


@operation(*_FUNCTIONS)
def plain(call: Call) -> Elements:
    """A function without parameters."""
    return apply(call, _FUNCTIONS[call.name], call.elements("self"))


@operation(
    "elu",
    "celu",
    "leaky_relu",
    "rrelu_with_noise",
    "hardtanh",
    "softplus",
    "softshrink",
    "hardshrink",
    "gelu",
    "threshold",
)
def parametrized(call: Call) -> Elements:
    """A function with parameters."""
    where = call.elements("self")
    match call.name:
        case "elu":
            return _elu(call, where)
        case "celu":
            return apply(call, "celu", where, alpha=float(call["alpha"]))
        case "leaky_relu":
            return apply(call, "leaky_relu", where, negative_slope=float(call["negative_slope"]))
        case "rrelu_with_noise":
            slope = (float(call["lower"]) + float(call["upper"])) / 2
            return apply(call, "leaky_relu", where, negative_slope=slope)
        case "hardtanh":
            least, most = float(call["min_val"]), float(call["max_val"])
            return apply(call, "hardtanh", where, min=least, max=most)
        case "softplus":
            beta, threshold = float(call["beta"]), float(call["threshold"])
            return apply(call, "softplus", where, beta=beta, threshold=threshold)
        case "gelu":
            return apply(call, "gelu_tanh" if call["approximate"] == "tanh" else "gelu", where)
        case "threshold":
            if call["value"] != 0:
                raise call.refusal("has a layer only for the value 0")
            return apply(call, "thresholded_relu", where, threshold=float(call["threshold"]))
    return apply(call, call.name, where, threshold=float(call["lambd"]))


def _elu(call: Call, where: Elements) -> Elements:
    scale, alpha = float(call["scale"]), float(call["alpha"])
    if call["input_scale"] != 1:
        raise call.refusal("has a layer only for the input scale 1")
    if math.isclose(scale, 1.0507009873554805) and math.isclose(alpha, 1.6732632423543772):
        return apply(call, "selu", where)
    made = function(call, "elu", Operand(where, np.zeros(where.shape)), alpha=alpha)
    return affine(call, made, factor=scale).where


@operation("log_sigmoid_forward")
def log_sigmoid(call: Call) -> tuple[Elements | None, ...]:
    """log(sigmoid(x)), and what only a backward pass reads."""
    return apply(call, "logsigmoid", call.elements("self")), None


@operation("_prelu_kernel")
def prelu(call: Call) -> Elements:
    """max(0, x) + weight min(0, x), with a weight for all columns or for each."""
    where = call.elements("self")
    weight = np.broadcast_to(numbers(call.fixed("weight")), where.shape).reshape(-1)
    slopes, keys = np.unique(weight, return_inverse=True)
    if len(slopes) == 1:
        return apply(call, "leaky_relu", where, negative_slope=float(slopes[0]))

    def emit(aligned: Aligned) -> int:
        source = value_of(call.graph, aligned.columns[:, 0], call.place)
        tensors = {"weight": torch.from_numpy(slopes[aligned.keys]).float()}
        like = call.graph.like(source, width=aligned.number)
        return call.graph.add("prelu", [source], like, call.place, tensors, shared=False).slot

    return call.row_wise(where.reshape(-1, 1), emit, keys.reshape(-1)).reshape(where.shape)


@operation("clamp", "clamp_min", "clamp_max", "clip")
def clamp(call: Call) -> Elements:
    """Numbers within bounds, which are fixed."""
    bounds = {}
    for name in ("min", "max"):
        if call.get(name) is not None:
            found = np.unique(
                numbers(call.fixed(name) if isinstance(call[name], torch.Tensor) else call[name])
            )
            if len(found) != 1:
                raise call.refusal("has a layer only for bounds that are one number")
            if np.isfinite(found[0]):
                bounds[name] = float(found[0])
    where = call.elements("self")
    return apply(call, "clamp", where, **bounds) if bounds else where


@operation("maximum", "minimum", "fmax", "fmin")
def extreme(call: Call) -> Elements:
    """The larger of two numbers, of which one is fixed."""
    bound = other_number(call)
    name = "min" if "max" in call.name else "max"
    if bound is not None:
        return apply(call, "clamp", call.elements("self"), **{name: bound})
    a, b = np.broadcast_arrays(call.elements("self"), call.elements("other"))

    def emit(aligned: Aligned) -> int:
        source = value_of(call.graph, aligned.columns.T.reshape(-1), call.place)
        like = call.graph.like(source, width=aligned.number)
        shape = [2, aligned.number]
        which = "max" if name == "min" else "min"
        fields: dict[str, Any] = {"shape": shape, "axis": 0, "function": which}
        return call.graph.add("reduce", [source], like, call.place, **fields).slot

    pairs = np.column_stack([a.reshape(-1), b.reshape(-1)])
    return call.row_wise(pairs, emit).reshape(a.shape)


@operation("neg", "negative")
def negative(call: Call) -> Elements:
    """-x"""
    return affine(call, Operand.of(call, call["self"]), factor=-1.0).where


@operation("add", "sub", "subtract", "rsub")
def add(call: Call) -> Elements:
    """x + alpha y, x - alpha y; the reversed y - alpha x"""
    a, b = Operand.of(call, call["self"]), Operand.of(call, call["other"])
    if call.name == "rsub":
        a, b = b, a
    scaled = affine(call, b, factor=float(call.get("alpha", 1)))
    return combine(call, "add" if call.name == "add" else "subtract", a, scaled).where


@operation("mul", "multiply")
def multiply(call: Call) -> Elements:
    """x y"""
    return combine(
        call, "multiply", Operand.of(call, call["self"]), Operand.of(call, call["other"])
    ).where


@operation("div", "divide", "true_divide")
def divide(call: Call) -> Elements:
    """x / y"""
    if call.get("rounding_mode"):
        call.check_all()
        raise call.refusal("rounds numbers, which has no layer")
    return combine(
        call, "divide", Operand.of(call, call["self"]), Operand.of(call, call["other"])
    ).where


@operation("pow", "float_power")
def power(call: Call) -> Elements:
    """x to a fixed power, or a fixed number to the power of x."""
    if not call.trace.depends(call["exponent"]):
        found = np.unique(numbers(call["exponent"]))
        if len(found) != 1:
            raise call.refusal("has a layer only for an exponent that is one number")
        return _power(call, float(found[0]))
    base = np.unique(numbers(call["self"]))
    if call.trace.depends(call["self"]) or len(base) != 1 or base[0] <= 0:
        raise call.refusal("has a layer only where one of the two is one positive number")
    exponent = Operand.of(call, call["exponent"])
    return function(call, "exp", affine(call, exponent, factor=math.log(base[0]))).where


def _power(call: Call, exponent: float) -> Elements:
    where = call.elements("self")
    names = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    if exponent == 1:
        return where
    if exponent in names:
        return apply(call, names[exponent], where)
    return apply(call, "power", where, exponent=exponent)


@operation("addcmul", "addcdiv")
def add_product(call: Call) -> Elements:
    """self + value tensor1 tensor2, or tensor1 / tensor2."""
    one, two = (Operand.of(call, call[name]) for name in ("tensor1", "tensor2"))
    joined = combine(call, "multiply" if call.name == "addcmul" else "divide", one, two)
    scaled = affine(call, joined, factor=float(call.get("value", 1)))
    return combine(call, "add", Operand.of(call, call["self"]), scaled).where


@operation("lerp")
def interpolate(call: Call) -> Elements:
    """self + weight (end - self)"""
    start = Operand.of(call, call["self"])
    step = combine(call, "subtract", Operand.of(call, call["end"]), start)
    return combine(
        call, "add", start, combine(call, "multiply", Operand.of(call, call["weight"]), step)
    ).where


@operation("glu")
def gate(call: Call) -> Elements:
    """The first half times the sigmoid of the second."""
    where = call.elements("self")
    first, second = (
        Operand(part, np.zeros(part.shape)) for part in np.split(where, 2, axis=call["dim"])
    )
    return combine(call, "multiply", first, function(call, "sigmoid", second)).where
