"""Models of every kind, a server of them, and nn.LSTM as the judge of what it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.model import PlainConfig
from bilstm_server.model.storage.folder import load_model

POOLINGS = ("last", "final", "mean", "max")
OUTPUTS = ("states", "final", "mean", "max", "logits", "state")

Array = np.ndarray[Any, Any]
Expected = dict[str, Array]

# What is served: four poolings, two versions, one direction, a projection, token ids.
MODELS: dict[str, dict[str, Any]] = {
    **{p: {"head": {"num_classes": 3, "pooling": p}, "seed": i} for i, p in enumerate(POOLINGS)},
    "forward": {"bidirectional": False, "seed": 10, "head": {"num_classes": 4}},
    "projected": {
        "proj_size": 4,
        "seed": 11,
        "bias": False,
        "head": {"num_classes": 2, "pooling": "final", "bias": False},
    },
    "deep": {"num_layers": 3, "hidden_size": 3, "input_size": 2, "seed": 12},
    "tokens": {"embedding": {"num_embeddings": 20}, "seed": 13, "head": {"num_classes": 3}},
}


@dataclass(frozen=True)
class Judge:
    """A model's weights in torch's own modules, in float64."""

    config: PlainConfig
    lstm: nn.LSTM
    embedding: torch.Tensor | None
    head: nn.Linear | None

    @classmethod
    def of(cls, folder: Path, config: PlainConfig) -> Judge:
        weights = {k: v.double() for k, v in load_model(folder).state_dict().items()}
        lstm = nn.LSTM(
            config.input_size,
            config.hidden_size,
            config.num_layers,
            bias=config.bias,
            bidirectional=config.bidirectional,
            proj_size=config.proj_size,
        ).double()
        lstm.load_state_dict(
            {k.removeprefix("lstm."): v for k, v in weights.items() if k.startswith("lstm.")}
        )
        head = None
        if config.head:
            head = nn.Linear(
                config.encoding_size, config.head.num_classes, bias=config.head.bias
            ).double()
            head.load_state_dict(
                {k.removeprefix("head."): v for k, v in weights.items() if k.startswith("head.")}
            )
        return cls(config, lstm, weights.get("embedding.weight"), head)

    @torch.no_grad()
    def encode(self, x: Array, state: tuple[Array, Array] | None = None) -> Expected:
        """Every output of one sequence."""
        steps = (
            torch.from_numpy(x.astype(np.float64))
            if self.embedding is None
            else self.embedding[torch.from_numpy(x.astype(np.int64))]
        )
        hx = None if state is None else tuple(torch.from_numpy(s.astype(np.float64)) for s in state)
        y, (h_n, c_n) = self.lstm(steps, hx)
        width = y.shape[1] // self.config.num_directions
        pooled = {
            "last": y[-1],
            "final": torch.cat([y[-1, :width], y[0, width:]]),
            "mean": y.mean(0),
            "max": y.max(0).values,
        }
        expected = {"states": y, "hidden": h_n, "cell": c_n}
        expected |= {name: pooled[name] for name in ("final", "mean", "max")}
        if self.head and self.config.head:
            expected["logits"] = self.head(pooled[self.config.head.pooling.value])
        return {name: value.numpy() for name, value in expected.items()}


@dataclass(frozen=True)
class Service:
    """A server of MODELS, and the judges of what it gives."""

    target: str
    stub: Any
    judges: dict[str, Judge]


def outputs_of(config: PlainConfig) -> list[str]:
    return [name for name in OUTPUTS if config.head or name != "logits"]


def numbers(names: Sequence[str]) -> list[int]:
    return [pb.Output.Value(f"OUTPUT_{name.upper()}") for name in names]


def arrays(encoding: pb.Encoding) -> Expected:
    """The tensors of a reply as float64, the state as `hidden` and `cell`."""
    present = {field.name: value for field, value in encoding.ListFields()}
    state = present.pop("state", None)
    if state is not None:
        present |= {"hidden": state.hidden, "cell": state.cell}
    return {name: tensors.decode(value).astype(np.float64) for name, value in present.items()}
