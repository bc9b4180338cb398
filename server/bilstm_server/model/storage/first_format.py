"""The first format of `config.json`: an embedding, one BiLSTM, and a head on a pooled vector.

Folders that have it are read as graphs of the same tensors' names; none are written.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ..config import ModelConfig, problem
from ..layers.interface import Size, Strict
from ..layers.lstm import Layers


class Pooling(StrEnum):
    """How the head reads one vector off a sequence's outputs."""

    LAST = "last"  # the output at the last step, as the usual classifier does
    FINAL = "final"  # the forward direction's last step and the backward one's first, joined
    MEAN = "mean"
    MAX = "max"


class EmbeddingConfig(Strict):
    """The embedding that turns token ids into the first layer's input."""

    num_embeddings: Size  # token ids are 0 to num_embeddings - 1


class HeadConfig(Strict):
    """The linear head that turns a pooled sequence into scores of classes."""

    num_classes: Size
    pooling: Pooling = Pooling.LAST
    bias: bool = True


class PlainConfig(Strict):
    """Sizes as torch.nn.LSTM names them, and what stands before and behind the BiLSTM."""

    version: PositiveInt = 1
    input_size: Size
    hidden_size: Size
    num_layers: Layers = 1
    bias: bool = True
    bidirectional: bool = True
    proj_size: int = Field(default=0, ge=0, le=2**28)
    embedding: EmbeddingConfig | None = None
    head: HeadConfig | None = None
    labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.proj_size >= self.hidden_size:
            raise problem("proj_size must be smaller than hidden_size")
        classes = self.head.num_classes if self.head else 0
        if self.labels and len(self.labels) != classes:
            raise problem(
                f"labels: expected one per class of the head ({classes}), got {len(self.labels)}"
            )
        return self

    @property
    def num_directions(self) -> int:
        """The number of directions, K: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def state_size(self) -> int:
        """The width of one direction's output at each step, P."""
        return self.proj_size or self.hidden_size

    @property
    def encoding_size(self) -> int:
        """The width of states, final, mean and max, K*P."""
        return self.num_directions * self.state_size

    @property
    def state_rows(self) -> int:
        """The rows of an initial or final state, layers*K."""
        return self.num_layers * self.num_directions

    def graph(self) -> ModelConfig:
        """The same model as a graph."""
        inputs: dict[str, Any] = {"features": {"width": self.input_size}}
        layers: list[dict[str, Any]] = []
        if self.embedding is not None:
            inputs = {"tokens": {"ids": self.embedding.num_embeddings}}
            layers.append({"name": "embedding", "type": "embedding", "width": self.input_size})
        lstm = self.model_dump(include={"hidden_size", "num_layers", "bias", "bidirectional"})
        layers.append({"name": "lstm", "type": "lstm", "proj_size": self.proj_size} | lstm)
        poolings: list[Literal["final", "mean", "max", "last"]] = ["final", "mean", "max"]
        outputs = {"states": "lstm"} | {name: name for name in poolings}
        if self.head is not None and self.head.pooling is Pooling.LAST:
            poolings.append("last")
        for name in poolings:
            # The only direction ends with its last step.
            kind = "last" if name == "final" and not self.bidirectional else name
            layers.append({"name": name, "type": kind, "inputs": ("lstm",)})
        if self.head is not None:
            head = {"width": self.head.num_classes, "bias": self.head.bias}
            read = (self.head.pooling.value,)
            layers.append({"name": "head", "type": "linear", "inputs": read} | head)
            outputs["logits"] = "head"
        labels = {"logits": self.labels} if self.labels else {}
        return ModelConfig.model_validate(
            {
                "version": self.version,
                "inputs": inputs,
                "layers": layers,
                "outputs": outputs,
                "labels": labels,
            }
        )
