"""`SequenceEncoder`: token embedding (optional), BiLSTM, head (optional), over a ragged batch.

Knows tensors and a `ModelConfig`; knows no file, no request and no queue.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from .bilstm import BiLSTM, States
from .config import ModelConfig, Output, Pooling
from .frozen import Frozen
from .kernels import Kernel, Layer, Linear, RaggedBatch
from .pooling import pool

# What outputs are pooled, and how.
POOLED = {Output.FINAL: Pooling.FINAL, Output.MEAN: Pooling.MEAN, Output.MAX: Pooling.MAX}


@dataclass(slots=True)
class Encodings:
    """The outputs of a batch of B sequences with N steps in all. What was not asked for is None."""

    states: Tensor | None = None  # [N, K*P]
    final: Tensor | None = None  # [B, K*P]
    mean: Tensor | None = None  # [B, K*P]
    max: Tensor | None = None  # [B, K*P]
    logits: Tensor | None = None  # [B, classes]
    state: States | None = None  # [layers*K, B, P] and [layers*K, B, H]


class SequenceEncoder(nn.Module):
    """A whole model: embedding (optional), BiLSTM, head (optional). Its state_dict has nn.LSTM's
    names under `lstm.`, and nn.Embedding's and nn.Linear's under `embedding.` and `head.`; it
    trains through autograd like any module.
    """

    _frozen_head: Frozen[nn.Linear, Linear] | None = None  # in use as long as `lstm` is frozen

    def __init__(
        self,
        config: ModelConfig,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """`dropout` acts between the layers, in training only."""
        super().__init__()
        self.config = config
        self.embedding = (
            nn.Embedding(
                config.embedding.num_embeddings, config.input_size, device=device, dtype=dtype
            )
            if config.embedding
            else None
        )
        self.lstm = BiLSTM(
            config.input_size,
            config.hidden_size,
            num_layers=config.num_layers,
            bias=config.bias,
            dropout=dropout,
            bidirectional=config.bidirectional,
            proj_size=config.proj_size,
            device=device,
            dtype=dtype,
        )
        self.head = (
            nn.Linear(
                config.encoding_size,
                config.head.num_classes,
                bias=config.head.bias,
                device=device,
                dtype=dtype,
            )
            if config.head
            else None
        )

    def freeze(self, kernel: Kernel) -> Self:
        """Pack the weights of this moment for the kernel, and run them; see `BiLSTM.freeze`."""
        self.eval()
        self.lstm.freeze(kernel)
        if self.head is not None:
            self._frozen_head = Frozen.make(self.head, kernel, _pack_head)
        return self

    def forward(
        self,
        x: Tensor,
        batch: RaggedBatch,
        hx: States | None = None,
        outputs: Collection[Output] = (Output.STATES,),
    ) -> Encodings:
        """Encode the sequences that lie one after the other in `x`.

        `x` is [N, input_size], or token ids [N] where the model has an embedding; `hx` as
        `BiLSTM.forward_ragged` takes it. Raises `ValueError` if logits are asked of a model
        without a head.
        """
        y, (h_n, c_n) = self.lstm.forward_ragged(self.embed(x), batch, hx)

        def pooled(pooling: Pooling) -> Tensor:
            return pool(pooling, y, h_n[-self.config.num_directions :], batch.lengths)

        encodings = Encodings()
        if Output.STATES in outputs:
            encodings.states = y
        for output, pooling in POOLED.items():
            if output in outputs:
                setattr(encodings, output.value, pooled(pooling))
        if Output.LOGITS in outputs:
            encodings.logits = self.classify(pooled(self.head_pooling()))
        if Output.STATE in outputs:
            encodings.state = (h_n, c_n)
        return encodings

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, and so of inputs and outputs."""
        return self.lstm.weight_ih_l0.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so inputs and outputs."""
        return self.lstm.weight_ih_l0.device

    def layers(self) -> list[Layer]:
        """The BiLSTM's layers; see `BiLSTM.layers`."""
        return self.lstm.layers()

    def embed(self, x: Tensor) -> Tensor:
        """Look up token ids [N] -> [N, input_size]; without an embedding `x` is given back."""
        return x if self.embedding is None else self.embedding(x)

    def head_pooling(self) -> Pooling:
        """How the head reads one vector off a sequence. Raises `ValueError` without a head."""
        if self.config.head is None:
            raise ValueError("logits need a head, and this model has none")
        return self.config.head.pooling

    def classify(self, pooled: Tensor) -> Tensor:
        """Compute the head's logits: [B, K*P] -> [B, classes]."""
        assert self.head is not None
        linear: Linear | None = None
        if self._frozen_head is not None and self.lstm.is_frozen:
            linear = self._frozen_head.packed_of(self.head)
        return self.head(pooled) if linear is None else linear(pooled)


def _pack_head(head: nn.Linear, kernel: Kernel) -> Linear:
    return kernel.linear(head.weight, head.bias)
