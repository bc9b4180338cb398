"""`SequenceEncoder`: a graph of named layers over a ragged batch.

Knows tensors and a `ModelConfig`; knows no file, no request and no queue.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from .bilstm import States
from .config import STATE, ModelConfig
from .kernels import Kernel, RaggedBatch
from .layers.interface import Layer, LayerConfig, WholeLayer, WindowLayer
from .layers.lstm import Lstm
from .layers.values import Grid
from .layers.windows import gather_windows

_MOST_PLANS = 64  # for sets of outputs, which callers choose


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a plan: what it reads and gives, and what nothing reads after it."""

    config: LayerConfig
    module: Layer | Lstm
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    done: tuple[str, ...]


class SequenceEncoder(nn.Module):
    """A whole model. Its state_dict has each layer's parameters under the layer's name; it trains
    through autograd like any module.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        self.config = config
        with torch.device(device or torch.get_default_device()):
            for layer in config.layers:
                inputs = (config.values[reference] for reference in layer.inputs)
                # Past `add_module`, which refuses names that torch's modules have methods of.
                self._modules[layer.name] = layer.build(*inputs)
        self._plans: dict[frozenset[str], tuple[Step, ...]] = {}

    def freeze(self, kernel: Kernel) -> Self:
        """Pack the weights of this moment for the kernel, and run them; see `BiLSTM.freeze`."""
        self.eval()
        for module in self._modules.values():
            cast(Layer, module).freeze(kernel)
        return self

    @property
    def lstms(self) -> tuple[Lstm, ...]:
        """The LSTMs, in order."""
        return tuple(module for module in self._modules.values() if isinstance(module, Lstm))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, and so of inputs and outputs."""
        return self.lstms[0].weight_ih_l0.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so inputs and outputs."""
        return self.lstms[0].weight_ih_l0.device

    def forward(
        self,
        inputs: Tensor | Sequence[Tensor],
        batch: RaggedBatch,
        hx: States | None = None,
        outputs: Collection[str] = ("states",),
    ) -> dict[str, Tensor]:
        """Encode sequences that lie one after the other.

        `inputs` are the model's, in the config's order: [N, width] of floats or [N] of ids each.
        `hx` are the initial states of a model with one LSTM, [L*K, B, P] and [L*K, B, H]. Returns
        the outputs by name, [N, width] or [B, width] of floats and [N] or [B] of integers; for
        `state` it is `hidden` and `cell`, shaped as `hx`.

        Raises `KeyError` for an output that the model does not have.
        """
        run = _Run(self.config, batch, hx)
        given = (inputs,) if isinstance(inputs, Tensor) else inputs
        values = dict(zip(self.config.inputs, given, strict=True))
        for step in self.plan(frozenset(outputs)):
            results = run.step(step, [values[reference] for reference in step.reads])
            values |= zip(step.gives, results, strict=False)
            for reference in step.done:
                values.pop(reference, None)
        wanted = {name: values[self.config.outputs[name]] for name in outputs if name != STATE}
        if STATE in outputs:
            assert run.state is not None
            wanted["hidden"], wanted["cell"] = run.state
        return wanted

    def plan(self, outputs: frozenset[str]) -> tuple[Step, ...]:
        """The layers to run for these outputs, in order."""
        if outputs not in self._plans:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[outputs] = self._make_plan(outputs)
        return self._plans[outputs]

    def _make_plan(self, outputs: frozenset[str]) -> tuple[Step, ...]:
        config = self.config
        layers = config.needed(outputs)
        kept = {config.outputs[name] for name in outputs if name != STATE}
        last_reader = {reference: layer for layer in layers for reference in layer.inputs}
        steps = []
        for layer in layers:
            done = [ref for ref, last in last_reader.items() if last is layer and ref not in kept]
            inputs = [config.values[reference] for reference in layer.inputs]
            gives = tuple(f"{layer.name}.{p}" if p else layer.name for p in layer.gives(*inputs))
            if not any(part in last_reader or part in kept for part in gives[1:]):
                gives = gives[:1]
            module = cast("Layer | Lstm", self._modules[layer.name])
            steps.append(Step(layer, module, layer.inputs, gives, tuple(done)))
        return tuple(steps)


class _Run:
    """One batch on its way through the graph."""

    def __init__(self, config: ModelConfig, batch: RaggedBatch, hx: States | None):
        self._config = config
        self._hx = hx
        self._batches = {Grid(): batch}
        self.state: States | None = None  # of the LSTM that ran last

    def step(self, step: Step, inputs: list[Tensor]) -> Sequence[Tensor]:
        """What the layer gives, in the order of `step.gives`."""
        module = step.module
        values = [self._config.values[reference] for reference in step.reads]
        grid = next((value.grid for value in values if value.per_step), None)
        if isinstance(module, Lstm):
            assert grid is not None
            y, self.state = module.encode(inputs[0], self.on(grid), self._hx)
            if len(step.gives) == 1:
                return (y,)
            return y, *(state.transpose(0, 1).flatten(1) for state in self.state)
        if isinstance(module, WindowLayer):
            assert grid is not None
            windows, _ = gather_windows(inputs[0], self.on(grid), module)
            return (module(windows),)
        if isinstance(module, WholeLayer):
            assert grid is not None
            return cast("Sequence[Tensor]", module(*inputs, self.on(grid)))
        if grid is not None and not all(value.per_step for value in values):
            owners = self.on(grid).owners
            inputs = [
                x if value.per_step else x.index_select(0, owners)
                for x, value in zip(inputs, values, strict=True)
            ]
        return (module(*inputs),)

    def on(self, grid: Grid) -> RaggedBatch:
        """Where the rows of the sequences lie on a grid."""
        if grid not in self._batches:
            whole = self._batches[Grid()]
            self._batches[grid] = RaggedBatch(grid.rows(whole.lengths), whole.device)
        return self._batches[grid]
