"""Modules of torch's own layers, made of a config and the `forward` that it stands for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilstm_server.model.config import ModelConfig
from bilstm_server.model.layers.values import Value


def module_of(config: ModelConfig, forward: str) -> nn.Module:
    """A module of torch's own layers as the config has them, that computes by these words."""
    module = nn.Module()
    for layer in config.layers:
        reads = config.values[layer.inputs[0]]
        fields = layer.model_dump(exclude={"name", "inputs"}, exclude_none=True)
        if made := torch_layer(fields.pop("type"), reads, fields):
            module.add_module(layer.name, made)
    names: dict[str, Any] = {"torch": torch, "F": F}
    exec(forward, names)
    module.forward = names["forward"].__get__(module)
    return module.eval()


def torch_layer(kind: str, reads: Value, fields: dict[str, Any]) -> nn.Module | None:
    """What torch has for a layer, if a module has it by name."""
    match kind:
        case "embedding":
            return nn.Embedding(reads.ids, fields["width"])
        case "linear":
            return nn.Linear(reads.width, fields["width"], fields["bias"])
        case "conv1d":
            return nn.Conv1d(reads.width, fields.pop("width"), fields.pop("kernel"), **fields)
        case "lstm":
            own = {name: fields[name] for name in fields.keys() - {"reverse", "initial_states"}}
            return nn.LSTM(reads.width, batch_first=True, **own)
        case "layer_norm":
            return nn.LayerNorm(reads.width)
        case "batch_norm":
            return nn.BatchNorm1d(reads.width)
        case "max_pool1d":
            return nn.MaxPool1d(fields["kernel"], fields["stride"], fields["padding"])
        case "crf":
            return Paths(reads.width)
    return None


class Paths(nn.Module):
    """A CRF with pytorch-crf's names, that tries every path."""

    def __init__(self, tags: int):
        super().__init__()
        self.transitions = nn.Parameter(torch.empty(tags, tags))
        self.start_transitions = nn.Parameter(torch.empty(tags))
        self.end_transitions = nn.Parameter(torch.empty(tags))

    def decode(self, emissions: Tensor) -> Tensor:
        """[1, T, C] -> [1, T]"""
        (x,) = emissions
        paths = torch.cartesian_prod(*[torch.arange(x.shape[1])] * len(x)).view(-1, len(x))
        scores = x[torch.arange(len(x)), paths].sum(1)
        scores += self.start_transitions[paths[:, 0]] + self.end_transitions[paths[:, -1]]
        scores += self.transitions[paths[:, :-1], paths[:, 1:]].sum(1)
        return paths[scores.argmax()][None]
