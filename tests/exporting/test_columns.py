"""Columns of values, picked and put in order by layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.exporting import elements
from bilstm_server.exporting.columns import value_of
from bilstm_server.exporting.graph import Graph
from bilstm_server.exporting.naming import named_layers, sorted_nodes
from bilstm_server.exporting.refusals import Place
from bilstm_server.model.config import ModelConfig
from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.kernels import RaggedBatch
from bilstm_server.model.layers.values import Value

WIDTHS = (6, 4)
STEPS = 5


def computed(graph: Graph, slot: int, inputs: dict[int, str]) -> np.ndarray:
    """What the layers give for [0, 1, …] in the columns of both inputs."""
    layers, references, tensors = named_layers(graph, sorted_nodes(graph, [slot]), inputs)
    unread: dict[str, Any] = {"name": "unread", "type": "lstm", "inputs": ["a"], "hidden_size": 1}
    config = ModelConfig.model_validate(
        {
            "format": 2,
            "inputs": {name: {"width": w} for name, w in zip("ab", WIDTHS, strict=True)},
            "layers": [*layers, unread],
            "outputs": {"y": references[slot]},
        }
    )
    encoder = SequenceEncoder(config)
    encoder.load_state_dict(tensors, strict=False)
    row = torch.arange(10.0).repeat(STEPS, 1)
    given = [row[:, : WIDTHS[0]], row[:, WIDTHS[0] :]]
    with torch.no_grad():
        y = encoder(given, RaggedBatch(np.array([STEPS])), None, ["y"])["y"]
    return np.asarray(y[2].numpy())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=70))
def test_any_columns_in_any_order(columns: list[int]) -> None:
    """The value has the columns that were asked for, however many layers that takes."""
    graph = Graph(STEPS)
    inputs = {graph.input(name, Value(w)): name for name, w in zip("ab", WIDTHS, strict=True)}
    first, second = inputs
    picked = np.array(
        [
            elements.make(first, 0, c) if c < WIDTHS[0] else elements.make(second, 0, c - WIDTHS[0])
            for c in columns
        ]
    )
    slot = value_of(graph, picked, Place())
    np.testing.assert_array_equal(computed(graph, slot, inputs), columns)


def test_a_transposed_row_is_one_layer() -> None:
    """[2, 3] columns read as [3, 2] are a permutation of axes."""
    graph = Graph(STEPS)
    slot = graph.input("a", Value(6))
    order = np.arange(6).reshape(2, 3).T.reshape(-1)
    made = value_of(graph, elements.make(slot, 0, order), Place())
    node = graph.slots[made].node
    assert node is not None
    assert (node.type, node.fields) == ("permute", {"shape": [2, 3], "order": [1, 0]})


def test_all_columns_are_the_value_itself() -> None:
    """No layer is made where nothing is to be done."""
    graph = Graph(STEPS)
    slot = graph.input("a", Value(6))
    assert value_of(graph, elements.make(slot, 0, np.arange(6)), Place()) == slot
