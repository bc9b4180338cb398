"""What a sliced run holds is what is said of it before."""

from __future__ import annotations

import gc
from collections.abc import Collection, Sequence
from types import FunctionType
from typing import Any

import pytest
from torch import Tensor, nn

from bilstm_server.model import ModelConfig, SequenceEncoder
from bilstm_server.model.incremental.live import encode_blocks
from bilstm_server.model.incremental.memory import carried_bytes, held_bytes, row_bytes
from bilstm_server.model.incremental.slices import SlicedRun, advance
from tests.model.incremental.encoders import draw_inputs, frozen, graph_of
from tests.model.incremental.slicing import encoder_of, run_of

pytestmark = pytest.mark.usefixtures("one_thread")

POOLED = ("final", "mean", "max", "logits")
STEPS = 64 * 50
WIDTH = 2 * 6 * 4  # bytes of an LSTM's output
FEW = 8  # bytes a step of segments' sums and of states


def held_by(run: SlicedRun) -> int:
    """Bytes of the tensors that the run refers to, its model and inputs aside."""
    tensors: dict[int, int] = {}
    seen: set[int] = set()
    ahead: list[Any] = [run]
    while ahead:
        one = ahead.pop()
        if id(one) in seen or isinstance(one, nn.Module | ModelConfig | type | FunctionType):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            tensors[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        else:
            ahead += gc.get_referents(one)
    return sum(tensors.values())


def most_held(encoder: SequenceEncoder, outputs: Collection[str]) -> float:
    """Bytes a step, at the end of any slice."""
    run = run_of(encoder, draw_inputs(encoder, STEPS), outputs)
    most = 0
    while not run.done:
        advance([run], 640)
        most = max(most, held_by(run))
    return most / STEPS


@pytest.mark.parametrize(
    ("layers", "outputs", "beside_inputs", "alone"),
    [
        (1, POOLED, 0, 0),
        (1, ["states"], WIDTH, WIDTH),
        (2, POOLED, WIDTH, WIDTH),
        (2, ["states", "mean"], WIDTH, 2 * WIDTH),
        (3, POOLED, WIDTH, 2 * WIDTH),
        (3, ["states", "state"], WIDTH, 2 * WIDTH),
    ],
)
def test_plain_models(
    layers: int, outputs: Collection[str], beside_inputs: int, alone: int
) -> None:
    """A layer's output takes the place of what the layer before it has read, and the top one's is
    held only where each step is asked for."""
    encoder = encoder_of("reference", num_layers=layers)
    said = held_bytes(encoder.config, outputs, itemsize=4)
    assert said == (beside_inputs, alone)
    assert max(said) <= most_held(encoder, outputs) <= max(said) + FEW


LSTM = {"type": "lstm", "hidden_size": 6}
TAGGER: tuple[dict[str, Any], ...] = (
    {"name": "embedding", "type": "embedding", "width": 5},
    {"name": "conv", "type": "conv1d", "width": 8, "kernel": 3, "padding": "same"},
    {"name": "lstm", **LSTM},
    {"name": "linear", "type": "linear", "width": 3},
    {"name": "labels", "type": "argmax"},
)
STACK: tuple[dict[str, Any], ...] = (
    {"name": "first", **LSTM},
    {"name": "both", "type": "concat", "inputs": ["first", "x"]},
    {"name": "second", **LSTM},
    {"name": "third", **LSTM},
    {"name": "pooled", "type": "max"},
    {"name": "thin", "type": "max_pool1d", "kernel": 2, "stride": 2, "inputs": ["first"]},
    {"name": "fourth", **LSTM},
)


@pytest.mark.parametrize(
    ("inputs", "layers", "outputs", "beside_inputs", "alone"),
    [
        ({"x": {"ids": 9}}, TAGGER, ["labels"], WIDTH, WIDTH + 8),
        ({"x": {"ids": 9}}, TAGGER, ["linear", "labels"], WIDTH, WIDTH + 12 + 8),
        ({"x": {"width": 5}}, STACK, ["pooled"], 2 * WIDTH, WIDTH),
        ({"x": {"width": 5}}, STACK, ["first", "pooled"], 2 * WIDTH, 2 * WIDTH),
        ({"x": {"width": 5}}, STACK, ["fourth"], WIDTH, WIDTH * 3 // 2),
        ({"x": {"width": 5}}, STACK, ["x", "pooled"], 20 + 2 * WIDTH, 20 + WIDTH),
    ],
)
def test_graphs(
    inputs: dict[str, Any],
    layers: Sequence[dict[str, Any]],
    outputs: Collection[str],
    beside_inputs: int,
    alone: int,
) -> None:
    """Values are held while something reads them; those of rows and of windows are not held."""
    encoder = graph_of("reference", inputs, *layers)
    said = held_bytes(encoder.config, outputs, itemsize=4)
    assert said == (beside_inputs, alone)
    assert max(said) <= most_held(encoder, outputs) <= max(said) + FEW


@pytest.mark.parametrize("part", ["attention", "attention_weights"])
def test_what_reads_all(part: str) -> None:
    """A layer that reads the whole sequence holds at most its input, and what it gives."""
    encoder = graph_of(
        "reference",
        {"x": {"width": 5}},
        {"name": "lstm", **LSTM},
        {"name": "scores", "type": "linear", "width": 2},
        {"name": "attention", "type": "attention", "inputs": ["lstm", "scores"]},
    )
    said = held_bytes(encoder.config, [part], itemsize=4)
    assert said == (WIDTH, 2 * WIDTH + 8 + 8 * (part == "attention_weights"))
    assert most_held(encoder, [part]) <= max(said) + FEW


@pytest.mark.parametrize(
    "layer", ["crf", "ctc", "logsumexp", "mean", "reverse_steps", "softmax_steps", "std"]
)
def test_what_reads_all_of_many_columns(layer: str) -> None:
    """Each type holds at most its input, and what it gives."""
    encoder = graph_of(
        "reference",
        {"x": {"width": 5}},
        {"name": "lstm", **LSTM},
        {"name": "wide", "type": "linear", "width": 30},
        {"name": "whole", "type": layer},
    )
    said = held_bytes(encoder.config, ["whole"], itemsize=4)
    assert most_held(encoder, ["whole"]) <= max(said) + 4 * FEW


def test_what_live_sequences_carry() -> None:
    """What a block leaves for the next is what is said of it before."""
    layers = [
        {"name": "past", "type": "conv1d", "width": 7, "kernel": 9, "padding": [8, 0]},
        {"name": "lstm", "type": "lstm", "hidden_size": 6, "num_layers": 2, "proj_size": 2},
        {"name": "around", "type": "conv1d", "width": 3, "kernel": 3, "padding": "same"},
    ]
    config = ModelConfig.model_validate(
        {"inputs": {"x": {"width": 5}}, "layers": layers, "outputs": {"y": "around"}}
    )
    encoder = frozen(config, "reference")
    inputs = draw_inputs(encoder, 40)
    _, (carried,) = encode_blocks(encoder, inputs, [30], [10], [None], outputs=["y"])
    tensors = [t for own in carried.values() for t in (own if isinstance(own, tuple) else (own,))]
    size = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert size == carried_bytes(config, ["y"], 4)


def test_outputs_of_one_row() -> None:
    """What has one row for a sequence is counted by its numbers, labels as integers."""
    layers = [
        {"name": "lstm", "type": "lstm", "hidden_size": 6, "num_layers": 2, "proj_size": 2},
        {"name": "mean", "type": "mean"},
        {"name": "label", "type": "argmax"},
    ]
    outputs = {"states": "lstm", "mean": "mean", "labels": "label"}
    config = ModelConfig.model_validate(
        {"inputs": {"x": {"width": 5}}, "layers": layers, "outputs": outputs}
    )
    sizes = {name: row_bytes(config, [name], 4) for name in config.output_names}
    assert sizes == {"states": 0, "mean": 4 * 4, "labels": 8, "state": 4 * 4 * (2 + 6)}
    assert row_bytes(config, config.output_names, 4) == sum(sizes.values())
