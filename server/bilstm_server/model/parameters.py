"""`LstmParameters`: torch.nn.LSTM's arguments and parameters, and the way to and from nn.LSTM.

Owns names, shapes and initial values; knows no input and no kernel that runs them.
"""

from __future__ import annotations

import math
import operator
import warnings
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .kernels import DirectionWeights


class LstmParameters(nn.Module):
    """The parameters of nn.LSTM, with its names and shapes. `BiLSTM` runs them."""

    weight_ih_l0: nn.Parameter  # one that is always there

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
        input_size = _integer("input_size", input_size)
        hidden_size = _integer("hidden_size", hidden_size)
        num_layers = _integer("num_layers", num_layers)
        proj_size = _integer("proj_size", proj_size)
        _check_sizes(input_size, hidden_size, num_layers, proj_size)
        dropout = _probability("dropout", dropout)
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout acts between layers, so it has no effect with num_layers=1",
                stacklevel=2,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = _boolean("bias", bias)
        self.batch_first = _boolean("batch_first", batch_first)
        self.dropout = dropout
        self.bidirectional = _boolean("bidirectional", bidirectional)
        self.proj_size = proj_size

        width = input_size
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                for name, shape in self._shapes(width).items():
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(name + suffix, parameter)
            width = self.num_directions * self.output_size
        self.reset_parameters()

    @property
    def num_directions(self) -> int:
        """The number of directions, K: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """The width of one direction's output at each step, P: proj_size or hidden_size."""
        return self.proj_size or self.hidden_size

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each layer and direction, in nn.LSTM's order: the parameters, or what
        weight_norm, spectral_norm, pruning or a parametrization makes of others.
        """
        return [
            [getattr(self, name + suffix) for name in self._shapes(self.input_size)]
            for layer in range(self.num_layers)
            for suffix in self._suffixes(layer)
        ]

    def directions(self, layer: int) -> list[DirectionWeights]:
        """The layer's parameters of this moment, by direction: forward, then backward."""
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

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), as nn.LSTM does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Do nothing: there is no cuDNN weight buffer to compact. Code for nn.LSTM calls it."""

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

    @classmethod
    def from_torch(cls, lstm: nn.LSTM) -> Self:
        """Make a BiLSTM with a copy of `lstm`'s weights, on its device, in its dtype and mode.

        Weights that weight_norm, spectral_norm, pruning or a parametrization makes are copied as
        they are at this moment.

        Raises `TypeError` for what is no nn.LSTM: its weights would mean something else.
        """
        if not isinstance(lstm, nn.LSTM):
            raise TypeError(f"from_torch takes a torch.nn.LSTM, got {type(lstm).__name__}")
        run_weight_hooks(lstm)
        module = cls(**_arguments(lstm))
        _copy_weights(lstm, module)
        return module.train(lstm.training)

    def to_torch(self) -> nn.LSTM:
        """Make an nn.LSTM with a copy of these weights, as they are at this moment, on this device,
        in this dtype and mode.
        """
        run_weight_hooks(self)
        lstm = nn.LSTM(**_arguments(self))
        _copy_weights(self, lstm)
        return lstm.train(self.training)

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.num_directions]

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """One direction's parameters in a layer whose input has this width."""
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


def run_weight_hooks(module: nn.Module) -> None:
    """Make the weights that weight_norm, spectral_norm and pruning make whenever the module is
    called. Until then they are those of the last call, whatever they are made of is now.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm | BasePruningMethod):
            hook(module, ())


def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy weights into the target's parameters, which the source has as attributes."""
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(getattr(source, name))


def _integer(name: str, value: Any) -> int:
    try:
        integer = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # as floats raise, those in tensors too
        integer = None
    if integer is None:
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return integer


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _probability(name: str, value: Any) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, got {value!r}")
    return float(value)


def _check_sizes(input_size: int, hidden_size: int, num_layers: int, proj_size: int) -> None:
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero, got {size}")
    if not 0 <= proj_size < hidden_size:
        raise ValueError(
            f"proj_size must be from 0 (none) to hidden_size - 1 ({hidden_size - 1}), "
            f"got {proj_size}"
        )


def _arguments(lstm: nn.LSTM | LstmParameters) -> dict[str, Any]:
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
