"""Models with inputs and outputs of their own, and a server of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bilstm_client.types import Array
from bilstm_server.model import ModelConfig, SequenceEncoder, save_model
from tests.support.servers import RunningServer, settings

TAGS = ("O", "B-PER", "I-PER", "B-LOC")
KINDS = ("question", "answer")
IDS, WIDTH = 20, 3

# Ids and features of each step; labels and scores of each step, and a label of the whole sequence.
TAGGER: dict[str, Any] = {
    "inputs": {"tokens": {"ids": IDS, "padding_id": 0}, "features": {"width": WIDTH}},
    "layers": [
        {"name": "embedding", "type": "embedding", "inputs": ["tokens"], "width": 4},
        {"name": "joined", "type": "concat", "inputs": ["embedding", "features"]},
        {"name": "lstm", "type": "lstm", "hidden_size": 6, "bidirectional": False},
        {"name": "emissions", "type": "linear", "width": len(TAGS)},
        {"name": "chances", "type": "softmax"},
        {"name": "tags", "type": "argmax", "inputs": ["emissions"]},
        {"name": "others", "type": "linear", "inputs": ["lstm"], "width": 5},
        {"name": "upos", "type": "argmax"},
        {"name": "last", "type": "last", "inputs": ["lstm"]},
        {"name": "kinds", "type": "linear", "width": len(KINDS)},
        {"name": "kind", "type": "argmax"},
    ],
    "outputs": {
        "states": "lstm",
        "logits": "emissions",
        "probabilities": "chances",
        "labels": "tags",
        "upos": "upos",
        "kind": "kind",
        "last": "last",
    },
    "labels": {"labels": TAGS, "logits": TAGS, "kind": KINDS},
}
# A row for every second step, and of those only the ones that say something.
RECOGNISER: dict[str, Any] = {
    "inputs": {"features": {"width": WIDTH}},
    "layers": [
        {"name": "conv", "type": "conv1d", "width": 4, "kernel": 3, "stride": 2},
        {"name": "lstm", "type": "lstm", "hidden_size": 6},
        {"name": "scores", "type": "linear", "width": 3},
        {"name": "text", "type": "ctc"},
    ],
    "outputs": {"states": "lstm", "logits": "scores", "labels": "text"},
    "labels": {"labels": ["", "a", "b"]},
}
CLASSIFIER: dict[str, Any] = {
    "inputs": {"features": {"width": WIDTH}},
    "layers": [
        {"name": "lstm", "type": "lstm", "hidden_size": 6},
        {"name": "final", "type": "final"},
        {"name": "head", "type": "linear", "width": len(KINDS)},
        {"name": "label", "type": "argmax"},
    ],
    "outputs": {"logits": "head", "labels": "label"},
    "labels": {"labels": KINDS, "logits": KINDS},
}
MODELS = {"tagger": TAGGER, "recogniser": RECOGNISER, "classifier": CLASSIFIER}


def write_graphs(folder: Path) -> list[tuple[str, Path]]:
    """A folder of each of the models, with random weights."""
    for name, config in MODELS.items():
        torch.manual_seed(3)
        save_model(SequenceEncoder(ModelConfig.model_validate(config)), folder / name)
    return [(name, folder / name) for name in MODELS]


def serve_graphs(folder: Path, **values: Any) -> RunningServer:
    """A server of the models, the tagger first."""
    return RunningServer(settings(model=write_graphs(folder), **values))


def sentence(steps: int, seed: int = 0) -> dict[str, Array]:
    """What the tagger takes."""
    rng = np.random.default_rng((seed, steps))
    features = rng.standard_normal((steps, WIDTH), np.float32)
    return {"tokens": rng.integers(1, IDS, steps), "features": features}
