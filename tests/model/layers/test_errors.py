"""A layer that can't be what its entry says is refused, in words that say why."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from bilstm_server.model.config import ModelConfig

WIDE = {"x": {"width": 6}}
TWO = {"x": {"width": 6}, "y": {"width": 4}}
IDS = {"x": {"ids": 6}}

# What a layer says, what it reads, and what is wrong with it.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "ids": ({"type": "linear", "width": 3}, IDS, "reads floats, got ids below 6 for each step"),
    "ids of windows": (
        {"type": "conv1d", "width": 3, "kernel": 3},
        IDS,
        "reads floats, got ids below 6 for each step",
    ),
    "ids summed": ({"type": "mean"}, IDS, "reads floats, got ids below 6 for each step"),
    "floats embedded": ({"type": "embedding", "width": 3}, WIDE, "reads ids, got 6 floats"),
    "linear groups": (
        {"type": "linear", "width": 3, "groups": 4},
        WIDE,
        "groups: 4 do not divide 6 floats",
    ),
    "softmax groups": ({"type": "softmax", "groups": 5}, WIDE, "groups: 5 do not divide 6 floats"),
    "norm groups": ({"type": "group_norm", "groups": 4}, WIDE, "groups: 4 do not divide 6 floats"),
    "conv groups": (
        {"type": "conv1d", "width": 4, "kernel": 1, "groups": 4},
        WIDE,
        "groups: 4 do not divide 6 floats",
    ),
    "conv groups of width": (
        {"type": "conv1d", "width": 4, "kernel": 1, "groups": 3},
        WIDE,
        "groups: 3 do not divide width, 4",
    ),
    "same with stride": (
        {"type": "conv1d", "width": 4, "kernel": 3, "stride": 2, "padding": "same"},
        WIDE,
        'padding "same" needs a stride of 1',
    ),
    "pool of padding": (
        {"type": "max_pool1d", "kernel": 2, "padding": 2},
        WIDE,
        "padding must be less than what a window spans",
    ),
    "no function": (
        {"type": "activation", "function": "relu7"},
        WIDE,
        "function must be one of abs, celu, clamp, ",
    ),
    "parameter of another": (
        {"type": "activation", "function": "relu", "alpha": 0.1},
        WIDE,
        "alpha: relu has none of such parameters",
    ),
    "parameter of a third": (
        {"type": "activation", "function": "softplus", "alpha": 0.1},
        WIDE,
        "alpha: softplus has only beta, threshold of such parameters",
    ),
    "clamp of nothing": (
        {"type": "activation", "function": "clamp"},
        WIDE,
        "clamp needs min, max or both",
    ),
    "power of nothing": (
        {"type": "activation", "function": "power"},
        WIDE,
        "power needs exponent",
    ),
    "not finite": (
        {"type": "activation", "function": "elu", "alpha": float("inf")},
        WIDE,
        "finite number",
    ),
    "scale by nothing": (
        {"type": "scale", "weight": False, "bias": False},
        WIDE,
        "must have weight or bias",
    ),
    "columns beyond": (
        {"type": "columns", "start": 2, "stop": 7},
        WIDE,
        "start and stop: 2 to 7 are not in 6",
    ),
    "columns of none": (
        {"type": "columns", "start": 3, "stop": 3},
        WIDE,
        "start and stop: 3 to 3 are not in 6",
    ),
    "shape of another width": (
        {"type": "permute", "shape": [2, 4], "order": [1, 0]},
        WIDE,
        "shape: [2, 4] is not that of 6 floats",
    ),
    "order without an axis": (
        {"type": "permute", "shape": [2, 3], "order": [0, 0]},
        WIDE,
        "order must have each of shape's 2 axes once",
    ),
    "axis beyond": (
        {"type": "reduce", "shape": [2, 3], "axis": 2, "function": "sum"},
        WIDE,
        "axis must be below 2, shape's number of axes",
    ),
    "odd directions": (
        {"type": "sum_directions"},
        {"x": {"width": 5}},
        "reads two directions side by side, got 5 floats for each step",
    ),
    "odd final": (
        {"type": "final"},
        {"x": {"width": 5}},
        "reads two directions side by side, got 5 floats for each step",
    ),
    "widths of a sum": (
        {"type": "add", "inputs": ["x", "y"]},
        TWO,
        "reads values of one width, got [4, 6]",
    ),
    "widths of a product": (
        {"type": "dot", "inputs": ["x", "y"]},
        TWO,
        "reads values of one width, got 6 and 4",
    ),
    "heads": (
        {"type": "dot", "heads": 4, "inputs": ["x", "x"]},
        WIDE,
        "heads: 4 do not divide 6 floats",
    ),
    "split heads": (
        {"type": "attention", "split": True, "inputs": ["x", "y"]},
        TWO,
        "heads: 4 do not divide 6 floats",
    ),
    "one input": ({"type": "attention"}, WIDE, "must read 2 values, got 1"),
    "too many inputs": (
        {"type": "subtract", "inputs": ["x", "x", "x"]},
        WIDE,
        "must read 2 values, got 3",
    ),
    "weights of fewer steps": (
        {"type": "weighted_sum", "inputs": ["x", "thinned"]},
        WIDE,
        "reads values with different numbers of steps",
    ),
    "a row of the sequence": (
        {"type": "reverse_steps", "inputs": ["pooled"]},
        WIDE,
        "reads a row for each step, got 6 floats for each sequence",
    ),
}


@pytest.mark.parametrize(("layer", "inputs", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(layer: dict[str, Any], inputs: dict[str, Any], reason: str) -> None:
    """The config is refused, and the reason names the field or what was read."""
    layers = [{"name": "wrong", "inputs": ["x"]} | layer]
    if "width" in inputs["x"]:
        thinned = {"name": "thinned", "type": "avg_pool1d", "kernel": 2, "stride": 2}
        pooled = {"name": "pooled", "type": "mean", "inputs": ["x"]}
        layers = [thinned | {"inputs": ["x"]}, pooled, *layers]
    config = {"format": 2, "inputs": inputs, "layers": layers, "outputs": {"out": "wrong"}}
    with pytest.raises(ValidationError, match=re.escape(reason)):
        ModelConfig.model_validate(config)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ({"type": "mean"}, "it reads the whole sequence"),
        ({"type": "softmax_steps"}, "it reads the whole sequence"),
        ({"type": "logsumexp"}, "it reads the whole sequence"),
        ({"type": "std"}, "it reads the whole sequence"),
        ({"type": "reverse_steps"}, "it reads the whole sequence"),
        ({"type": "attention", "inputs": ["x", "x"]}, "it reads the whole sequence"),
        ({"type": "weighted_sum", "inputs": ["x", "x"]}, "it reads the whole sequence"),
        ({"type": "conv1d", "width": 3, "kernel": 3, "stride": 2}, "it has a stride"),
        ({"type": "max_pool1d", "kernel": 3, "stride": 3}, "it has a stride"),
        ({"type": "conv1d", "width": 3, "kernel": 3, "padding": 1}, None),
        ({"type": "avg_pool1d", "kernel": 3, "padding": 1}, None),
        ({"type": "softmax"}, None),
        ({"type": "batch_norm"}, None),
    ],
    ids=str,
)
def test_not_live(layer: dict[str, Any], reason: str | None) -> None:
    """What needs the whole sequence, or has no row for each step, says so."""
    lstm = {"name": "lstm", "type": "lstm", "inputs": ["x"], "hidden_size": 1}
    layers = [lstm, {"name": "layer", "inputs": ["x"]} | layer]
    config = {"format": 2, "inputs": WIDE, "layers": layers, "outputs": {"out": "layer"}}
    assert ModelConfig.model_validate(config).layers[-1].not_live == reason
