"""`BiLSTM`: torch.nn.LSTM's interface over this project's own kernels.

Owns the parameters, the stack of layers and the input forms; the equations are in `kernels/`.
No nn.LSTM, `_VF.lstm`, cuDNN or oneDNN recurrence is called here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from .kernels import DirectionWeights, Kernel, Layer, RaggedBatch
from .kernels.reference import ReferenceLayer

States = tuple[Tensor, Tensor]


class BiLSTM(nn.Module):
    """A (bidirectional) LSTM: drop-in for `torch.nn.LSTM`, with the same parameters.

    Arguments, parameter names and shapes, initialisation and results are nn.LSTM's, so that a
    state_dict goes either way with `strict=True`; only `bidirectional` defaults to True.
    In the shapes below B is the number of sequences, T their steps, N all steps of a ragged
    batch, D input_size, H hidden_size, P proj_size or H, and K the directions (2, or 1 with
    `bidirectional=False`).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = True,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero, got {size}")
        if num_layers <= 0:
            raise ValueError(f"num_layers must be greater than zero, got {num_layers}")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(
                f"proj_size must be from 0 (none) to hidden_size - 1 ({hidden_size - 1}), "
                f"got {proj_size}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a probability from 0 to 1, got {dropout}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout acts between layers, so it has no effect with num_layers=1",
                stacklevel=2,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._frozen: list[Layer] | None = None

        width = input_size
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                for name, shape in self._parameter_shapes(width).items():
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(name + suffix, parameter)
            width = self.num_directions * self.output_size
        self.reset_parameters()

    @property
    def num_directions(self) -> int:
        """K: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """P: what one direction puts out at each step."""
        return self.proj_size or self.hidden_size

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.num_directions]

    def _parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        gates = 4 * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (gates, width),
            "weight_hh": (gates, self.output_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        return shapes

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), as nn.LSTM does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        self._frozen = None
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": True,
            "proj_size": 0,
        }
        parts += [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(parts)

    def flatten_parameters(self) -> None:
        """Do nothing: there is no cuDNN weight buffer to compact. Code for nn.LSTM calls it."""

    # -- between nn.LSTM and this module -------------------------------------------------------

    @classmethod
    def from_torch(cls, lstm: nn.LSTM) -> Self:
        """A BiLSTM with a copy of `lstm`'s weights, on its device, in its dtype and mode."""
        module = cls(**_arguments(lstm))
        module.load_state_dict(lstm.state_dict())
        return module.train(lstm.training)

    def to_torch(self) -> nn.LSTM:
        """An nn.LSTM with a copy of these weights, on this device, in this dtype and mode."""
        lstm = nn.LSTM(**_arguments(self))
        lstm.load_state_dict(self.state_dict())
        return lstm.train(self.training)

    # -- inference with packed weights ---------------------------------------------------------

    def freeze(self, kernel: Kernel = ReferenceLayer) -> Self:
        """Pack the weights of this moment for `kernel`, once, and run with them from now on.

        For inference: sets eval mode, and no gradient reaches the weights. Training mode, another
        dtype or device, or loading a state_dict thaws the module again.
        """
        self.eval()
        with torch.no_grad():
            self._frozen = [kernel(self._directions(layer)) for layer in range(self.num_layers)]
        return self

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._frozen = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._frozen = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._frozen = None
        super()._load_from_state_dict(*args, **kwargs)

    def _directions(self, layer: int) -> list[DirectionWeights]:
        return [
            DirectionWeights(
                w_ih=getattr(self, "weight_ih" + suffix),
                w_hh=getattr(self, "weight_hh" + suffix),
                b_ih=getattr(self, "bias_ih" + suffix, None),
                b_hh=getattr(self, "bias_hh" + suffix, None),
                w_hr=getattr(self, "weight_hr" + suffix, None),
            )
            for suffix in self._suffixes(layer)
        ]

    def _layers(self) -> Iterator[Layer]:
        """The layers in order; unless frozen they hold the parameters of this moment."""
        if self._frozen is not None:
            yield from self._frozen
        else:
            for layer in range(self.num_layers):
                yield ReferenceLayer(self._directions(layer))

    # -- running it ----------------------------------------------------------------------------

    def forward_ragged(
        self,
        x: Tensor,
        lengths: Sequence[int] | np.ndarray | Tensor | RaggedBatch,
        hx: States | None = None,
    ) -> tuple[Tensor, States]:
        """Run B sequences that lie one after the other, without padding.

        `x` [N, D]; `lengths` [B] steps each, at least 1, in any order (or the `RaggedBatch`
        made of them); `hx` = (h_0 [layers*K, B, P], c_0 [layers*K, B, H]), zeros if None.
        Returns `y` [N, K*P] in x's order and (h_n, c_n), shaped as `hx`.

        Raises `ValueError` where shapes and lengths do not agree.
        """
        batch = lengths if isinstance(lengths, RaggedBatch) else _batch(lengths, x.device)
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ValueError(f"x must be [N, {self.input_size}] (input_size), got {list(x.shape)}")
        if x.dtype != self.weight_ih_l0.dtype:
            raise ValueError(f"x must be {self.weight_ih_l0.dtype} as the weights, got {x.dtype}")
        if batch.tokens != x.shape[0]:
            raise ValueError(f"lengths add up to {batch.tokens}, but x has {x.shape[0]} rows")
        h_0, c_0 = self._initial_states(x, len(batch), hx)
        h_n: list[Tensor] = []
        c_n: list[Tensor] = []
        directions = self.num_directions
        for index, layer in enumerate(self._layers()):
            if index and self.training and self.dropout:
                x = F.dropout(x, self.dropout)
            own = slice(index * directions, (index + 1) * directions)
            x, h, c = layer(x, batch, h_0[own], c_0[own])
            h_n.append(h)
            c_n.append(c)
        return x, (torch.cat(h_n), torch.cat(c_n))

    def forward(
        self, input: Tensor | PackedSequence, hx: States | None = None
    ) -> tuple[Tensor | PackedSequence, States]:
        """Take and return what nn.LSTM does.

        `input` is [T, B, D] ([B, T, D] with `batch_first`), [T, D], or a `PackedSequence`;
        the output has the same form with K*P for D, and (h_n, c_n) are shaped as `hx`:
        [layers*K, B, P or H], without B for an unbatched input.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        if input.dim() == 2:
            if hx is not None:
                if hx[0].dim() != 2 or hx[1].dim() != 2:
                    raise ValueError("for an unbatched input, hx must be unbatched: 2-D tensors")
                hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            y, (h_n, c_n) = self.forward_ragged(input, [input.shape[0]], hx)
            return y, (h_n.squeeze(1), c_n.squeeze(1))
        if input.dim() != 3:
            raise ValueError(f"input must be 2-D or 3-D, got {input.dim()}-D")
        x = input if self.batch_first else input.transpose(0, 1)  # [B, T, D]
        sequences, steps = x.shape[:2]
        y, states = self.forward_ragged(x.flatten(0, 1), [steps] * sequences, hx)
        y = y.reshape(sequences, steps, -1)
        return (y if self.batch_first else y.transpose(0, 1)), states

    def _forward_packed(
        self, packed: PackedSequence, hx: States | None
    ) -> tuple[PackedSequence, States]:
        # PackedSequence.data is in step order, its sequences the longest first.
        live = packed.batch_sizes.numpy()
        lengths = (live[:, None] > np.arange(live[0])).sum(axis=0)
        batch = RaggedBatch(lengths, packed.data.device)
        rows = torch.empty_like(packed.data).index_copy(0, batch.forward_rows, packed.data)
        if hx is not None and packed.sorted_indices is not None:
            self._initial_states(rows, len(batch), hx)  # before it is sorted: is it one for each?
            hx = (
                hx[0].index_select(1, packed.sorted_indices),
                hx[1].index_select(1, packed.sorted_indices),
            )
        y, (h_n, c_n) = self.forward_ragged(rows, batch, hx)
        if packed.unsorted_indices is not None:
            h_n = h_n.index_select(1, packed.unsorted_indices)
            c_n = c_n.index_select(1, packed.unsorted_indices)
        return packed._replace(data=y.index_select(0, batch.forward_rows)), (h_n, c_n)

    def _initial_states(self, x: Tensor, sequences: int, hx: States | None) -> States:
        rows = self.num_layers * self.num_directions
        h_shape = (rows, sequences, self.output_size)
        c_shape = (rows, sequences, self.hidden_size)
        if hx is None:
            return x.new_zeros(h_shape), x.new_zeros(c_shape)
        for name, state, shape in zip(("h_0", "c_0"), hx, (h_shape, c_shape), strict=True):
            if state.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {list(state.shape)}")
            if state.dtype != x.dtype:
                raise ValueError(f"{name} must be {x.dtype} as the input, got {state.dtype}")
        return hx


def _batch(lengths: Sequence[int] | np.ndarray | Tensor, device: torch.device) -> RaggedBatch:
    if isinstance(lengths, Tensor):
        lengths = lengths.cpu().numpy()
    return RaggedBatch(lengths, device)


def _arguments(lstm: nn.LSTM | BiLSTM) -> dict[str, Any]:
    weight = lstm.weight_ih_l0
    assert isinstance(weight, Tensor)
    return {
        "input_size": lstm.input_size,
        "hidden_size": lstm.hidden_size,
        "num_layers": lstm.num_layers,
        "bias": lstm.bias,
        "batch_first": lstm.batch_first,
        "dropout": lstm.dropout,
        "bidirectional": lstm.bidirectional,
        "proj_size": lstm.proj_size,
        "device": weight.device,
        "dtype": weight.dtype,
    }
