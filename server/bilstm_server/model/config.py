"""`ModelConfig`: what `config.json` in a model folder says. Pure data; no torch, no files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

# Far beyond any model, and small enough that products of two sizes are sizes of tensors.
Size = Annotated[int, Field(ge=1, le=2**28)]
# Each layer is built before its weights are looked for.
Layers = Annotated[int, Field(ge=1, le=1024)]


class Pooling(StrEnum):
    """How the head reads one vector off a sequence's outputs."""

    LAST = "last"  # the output at the last step, as the usual classifier does
    FINAL = "final"  # the forward direction's last step and the backward one's first, joined
    MEAN = "mean"
    MAX = "max"


class Output(StrEnum):
    """What a caller can ask of a sequence. P = proj_size or hidden_size, K = directions."""

    STATES = "states"  # [T, K*P], the top layer's output at each step
    FINAL = "final"  # [K*P], forward's last step and backward's first, joined
    MEAN = "mean"  # [K*P], over the steps
    MAX = "max"  # [K*P], over the steps
    LOGITS = "logits"  # [classes], the head's
    STATE = "state"  # hidden [layers*K, P] and cell [layers*K, H] after the last step


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EmbeddingConfig(_Strict):
    """The embedding that turns token ids into the first layer's input."""

    num_embeddings: Size  # token ids are 0 to num_embeddings - 1


class HeadConfig(_Strict):
    """The linear head that turns a pooled sequence into scores of classes."""

    num_classes: Size
    pooling: Pooling = Pooling.LAST
    bias: bool = True


def _problem(reason: str) -> PydanticCustomError:
    """Make what pydantic takes as a `ValueError`, but without "Value error, " before the words."""
    return PydanticCustomError("model", "{reason}", {"reason": reason})


class ModelConfig(_Strict):
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
            raise _problem("proj_size must be smaller than hidden_size")
        classes = self.head.num_classes if self.head else 0
        if self.labels and len(self.labels) != classes:
            raise _problem(
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
