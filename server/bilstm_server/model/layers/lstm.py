"""A stack of LSTM layers; the equations are in `kernels/reference`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..bilstm import BiLSTM, States
from ..kernels import RaggedBatch
from .interface import LayerConfig, Size
from .values import Value, steps

# Each layer is built before its weights are looked for.
Layers = Annotated[int, Field(ge=1, le=1024)]


class LstmConfig(LayerConfig):
    """nn.LSTM, with its arguments and parameters. P is proj_size or hidden_size, K the number of
    directions, L of layers."""

    type: Literal["lstm"] = "lstm"
    hidden_size: Size
    num_layers: Layers = 1
    bias: bool = True
    bidirectional: bool = True
    proj_size: int = Field(default=0, ge=0, le=2**28)
    reverse: bool = Field(
        default=False, description="Its only direction goes from the last step to the first."
    )
    initial_states: bool = Field(
        default=False, description="It has learned ones: h_0 [L*K, P] and c_0 [L*K, H]."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.proj_size >= self.hidden_size:
            raise ValueError("proj_size must be smaller than hidden_size")
        if self.reverse and self.bidirectional:
            raise ValueError("reverse needs bidirectional to be false")
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
    def state_rows(self) -> int:
        """The rows of an initial or final state, L*K."""
        return self.num_layers * self.num_directions

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [N, K*P]; `hidden` [B, L*K*P] and `cell` [B, L*K*H] after the last step, the
        rows of nn.LSTM's h_n and c_n side by side."""
        (x,) = map(steps, inputs)
        return {
            "": x.of_width(self.num_directions * self.state_size),
            "hidden": x.per_sequence(self.state_rows * self.state_size),
            "cell": x.per_sequence(self.state_rows * self.hidden_size),
        }

    def build(self, *inputs: Value) -> Lstm:
        return Lstm(inputs[0].width, self)


class Lstm(BiLSTM):
    """See `LstmConfig`."""

    h_0: nn.Parameter  # [L*K, P]
    c_0: nn.Parameter  # [L*K, H]

    def __init__(self, input_size: int, config: LstmConfig, **options: Any):
        super().__init__(
            input_size,
            config.hidden_size,
            num_layers=config.num_layers,
            bias=config.bias,
            bidirectional=config.bidirectional,
            proj_size=config.proj_size,
            **options,
        )
        self.config = config
        if config.initial_states:
            rows = config.state_rows
            self.h_0 = nn.Parameter(torch.zeros(rows, config.state_size))
            self.c_0 = nn.Parameter(torch.zeros(rows, config.hidden_size))

    def encode(self, x: Tensor, batch: RaggedBatch, hx: States | None) -> tuple[Tensor, States]:
        """As `forward_ragged`, but in the layer's direction, and from its learned initial states
        where none are given."""
        hx = self.initial_states(len(batch)) if hx is None else hx
        if not self.config.reverse:
            return self.forward_ragged(x, batch, hx)
        rows = batch.reversed_rows
        y, states = self.forward_ragged(x.index_select(0, rows), batch, hx)
        return y.index_select(0, rows), states

    def initial_states(self, sequences: int) -> States | None:
        """The learned initial states of so many sequences, [L*K, B, P] and [L*K, B, H], if the
        layer has them."""
        if not self.config.initial_states:
            return None
        h_0, c_0 = (
            state.unsqueeze(1).expand(-1, sequences, -1).contiguous()
            for state in (self.h_0, self.c_0)
        )
        return h_0, c_0
