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
from .layers.interface import Layer, LayerConfig, RowLayer, WholeLayer, WindowLayer
from .layers.lstm import Lstm
from .layers.values import EVERY_STEP, Grid
from .layers.windows import map_all_windows

_MOST_PLANS = 64  # for sets of outputs, which callers choose


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a plan: what it reads and gives, and what nothing reads after it."""

    config: LayerConfig
    module: Layer | Lstm
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    done: tuple[str, ...]
    grid: Grid | None  # of its per-step inputs, if it has any
    repeated: tuple[int, ...]  # the places of per-sequence inputs that stand beside per-step ones


class SequenceEncoder(nn.Module):
    """A whole model. Its state_dict has each layer's parameters under the layer's name; it trains
    through autograd like any module.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        self.config = config
        self._plans: dict[frozenset[str], tuple[Step, ...]] = {}
        with torch.device(device or torch.get_default_device()):
            for layer in config.layers:
                inputs = (config.values[reference] for reference in layer.inputs)
                # Past `add_module`, which refuses names that a module has attributes of. A layer
                # may have any of them but `training`, which `eval` sets: the config refuses that.
                self._modules[layer.name] = layer.build(*inputs)

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
        run = _Run(batch, hx)
        given = (inputs,) if isinstance(inputs, Tensor) else inputs
        values = dict(zip(self.config.inputs, given, strict=True))
        for step in self.plan(frozenset(outputs)):
            results = run.step(step, [values[reference] for reference in step.reads])
            values.update(zip(step.gives, results, strict=False))
            for reference in step.done:
                del values[reference]
        sources = self.config.outputs
        wanted = {name: values[sources[name]] for name in outputs if name != STATE}
        if STATE in outputs:
            assert run.state is not None
            wanted["hidden"], wanted["cell"] = run.state
        return wanted

    def plan(self, outputs: frozenset[str]) -> tuple[Step, ...]:
        """The layers to run for these outputs, in order."""
        plan = self._plans.get(outputs)
        if plan is None:  # perhaps in several threads at once, each of which may clear the others'
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[outputs] = self._make_plan(outputs)
        return plan

    def _make_plan(self, outputs: frozenset[str]) -> tuple[Step, ...]:
        config = self.config
        layers = config.needed(outputs)
        kept = {config.outputs[name] for name in outputs if name != STATE}
        last_reader = {reference: layer for layer in layers for reference in layer.inputs}
        done: dict[str, list[str]] = {layer.name: [] for layer in layers}
        for reference, layer in last_reader.items():
            if reference not in kept:
                done[layer.name].append(reference)
        steps = []
        for layer in layers:
            inputs = [config.values[reference] for reference in layer.inputs]
            gives = tuple(f"{layer.name}.{p}" if p else layer.name for p in layer.gives(*inputs))
            if not any(part in last_reader or part in kept for part in gives[1:]):
                gives = gives[:1]
            module = cast("Layer | Lstm", self._modules[layer.name])
            grids = [value.grid for value in inputs if value.per_step]
            repeated = tuple(i for i, value in enumerate(inputs) if not value.per_step)
            steps.append(
                Step(
                    layer,
                    module,
                    layer.inputs,
                    gives,
                    tuple(done[layer.name]),
                    grids[0] if grids else None,
                    repeated if grids and isinstance(module, RowLayer) else (),
                )
            )
        return tuple(steps)


class _Run:
    """One batch on its way through the graph."""

    def __init__(self, batch: RaggedBatch, hx: States | None):
        self._hx = hx
        self._batch = batch
        self._batches = {EVERY_STEP: batch}
        self.state: States | None = None  # of the LSTM that ran last

    def step(self, step: Step, inputs: list[Tensor]) -> Sequence[Tensor]:
        """What the layer gives, in the order of `step.gives`."""
        module = step.module
        if isinstance(module, RowLayer):
            if step.repeated:
                owners = self.on(step.grid).owners
                for place in step.repeated:
                    inputs[place] = inputs[place].index_select(0, owners)
            return (module(*inputs),)
        batch = self.on(step.grid)
        if isinstance(module, Lstm):
            y, self.state = module.encode(inputs[0], batch, self._hx)
            if len(step.gives) == 1:
                return (y,)
            return y, *(state.transpose(0, 1).flatten(1) for state in self.state)
        if isinstance(module, WindowLayer):
            return (map_all_windows(module, inputs[0], batch),)
        assert isinstance(module, WholeLayer)
        return cast("Sequence[Tensor]", module(*inputs, batch))

    def on(self, grid: Grid | None) -> RaggedBatch:
        """Where the rows of the sequences lie on a grid."""
        if grid is EVERY_STEP:
            return self._batch
        assert grid is not None  # what reads no steps asks for none
        if grid not in self._batches:
            lengths = grid.rows(self._batch.lengths)
            self._batches[grid] = RaggedBatch(lengths, self._batch.device)
        return self._batches[grid]
