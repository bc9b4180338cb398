"""A model's config: its bounds, and what it says of outputs that can't be had."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from bilstm_server.model import ModelConfig, RaggedBatch, SequenceEncoder

LSTM = {"name": "lstm", "type": "lstm", "hidden_size": 4}


def config_of(*layers: dict[str, Any], **fields: Any) -> ModelConfig:
    given = {"inputs": {"x": {"width": 4}}, "layers": layers, "outputs": {"y": layers[-1]["name"]}}
    return ModelConfig.model_validate(given | fields)


def doubled(times: int) -> list[dict[str, Any]]:
    names = ["lstm", *(f"twice{i}" for i in range(times))]
    return [
        {"name": name, "type": "concat", "inputs": [before, before]}
        for before, name in pairwise(names)
    ]


def thinned(times: int) -> list[dict[str, Any]]:
    layer = {"type": "avg_pool1d", "kernel": 1000, "stride": 1000}
    return [{"name": f"pool{i}", **layer} for i in range(times)]


BEYOND: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "columns": (doubled(40), {}, "gives rows of more than 268435456 columns"),
    "columns of heads": (
        [*doubled(20), {"name": "y", "type": "attention", "inputs": ["twice19", "twice19"]}],
        {},
        "gives rows of more than 268435456 columns",
    ),
    "least steps": (thinned(3), {}, "need sequences of more than 1048576 steps"),
    "a window": (
        [{"name": "y", "type": "splice", "kernel": 2**11, "dilation": 2**10}],
        {},
        "a window must span at most 1048576 steps",
    ),
    "padding": (
        [{"name": "y", "type": "conv1d", "width": 1, "kernel": 1, "padding": 2**21}],
        {},
        "less than or equal to 1048576",
    ),
    "layers of LSTMs": (
        [{**LSTM, "name": f"lstm{i}", "num_layers": 600} for i in range(2)],
        {},
        "at most 1024 layers of LSTMs in all",
    ),
    "layers": ([{"name": f"a{i}", "type": "last"} for i in range(1024)], {}, "at most 1024 items"),
    "labels": (
        [{"name": "y", "type": "linear", "width": 2000}],
        {"labels": {"y": ["n" * 900] * 2000}},
        "labels: must be at most 1048576 bytes in all, got 1800000",
    ),
}


@pytest.mark.parametrize(("layers", "fields", "reason"), BEYOND.values(), ids=BEYOND)
def test_bounds(layers: list[dict[str, Any]], fields: dict[str, Any], reason: str) -> None:
    """What no model needs, and what would make it grow beyond any machine, is refused."""
    with pytest.raises(ValidationError, match=re.escape(reason)):
        config_of(LSTM, *layers, **fields)


def test_the_first_reason() -> None:
    """An output that can't be had live says which layer on the way to it is the first that needs
    the whole sequence; others of the same model are not concerned."""
    config = config_of(
        LSTM,
        {"name": "strided", "type": "conv1d", "width": 3, "kernel": 3, "stride": 2},
        {"name": "tags", "type": "crf"},
        {"name": "query", "type": "mean", "inputs": ["lstm"]},
        {"name": "scores", "type": "dot", "inputs": ["lstm", "query"]},
        outputs={"states": "lstm", "labels": "tags", "score": "tags.score", "scores": "scores"},
    )
    assert config.not_live("states") is None
    assert config.not_live("labels") == "layer strided: it has a stride"
    assert config.not_live("score") == "it is one of the whole sequence"
    assert config.not_live("scores") == "layer query: it reads the whole sequence"
    assert config.not_live("state") == "it is one of the whole sequence"
    assert not any(map(config.unsliceable, config.output_names))


def test_reasons_of_a_large_graph() -> None:
    """Every request asks for the reasons: they are known without a walk through the graph."""
    rows = [{"name": f"a{i}", "type": "activation", "function": "tanh"} for i in range(1000)]
    config = config_of(LSTM, *rows)
    config.unsliceable("y"), config.not_live("y")
    started_at = time.perf_counter()
    for _ in range(1000):
        assert config.unsliceable("y") is config.not_live("y") is None
    assert time.perf_counter() - started_at < 0.5


def test_names_that_a_module_has() -> None:
    """Layers may have the names of what is in a module, but for the one that torch sets."""
    names = ["config", "forward", "_plans", "_modules", "lstms", "eval", "state_dict"]
    rows = [{"name": name, "type": "linear", "width": 2} for name in names]
    encoder = SequenceEncoder(config_of(LSTM, *rows)).eval()
    with torch.inference_mode():
        outputs = encoder(torch.zeros(3, 4), RaggedBatch([3]), outputs=["y"])
    assert outputs["y"].shape == (3, 2)
    with pytest.raises(ValidationError, match="'training' is torch's own name"):
        config_of(LSTM | {"name": "training"})
