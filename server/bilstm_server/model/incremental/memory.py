"""What a sequence holds in memory while it is computed a slice or a block at a time. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import ceil, prod
from typing import NamedTuple

from ..config import STATE, ModelConfig
from ..layers.interface import WindowConfig
from ..layers.lstm import LstmConfig
from .stages import LstmStage, Stage, plan_stages

_ID_BYTES = 8
_WIDE_BYTES = 4  # of numbers that are added up, and of states


class HeldBytes(NamedTuple):
    """The most bytes that a step of a long sequence takes, its inputs aside."""

    beside_inputs: int  # while the inputs are held
    alone: int  # when nothing reads them any more


def held_bytes(config: ModelConfig, outputs: Collection[str], itemsize: int) -> HeldBytes:
    """What a `SlicedRun` for these outputs holds for each step, with numbers of `itemsize` bytes.

    A layer that reads the whole sequence is taken to hold all of its input, unless it is a pooling,
    which holds a row in 64.
    """
    plan = plan_stages(config, outputs)
    count = _Counter(config, itemsize)
    wanted = {config.outputs[name] for name in outputs if name != STATE}
    inputs = plan.inputs
    most = [0.0, 0.0]  # without and with inputs
    held, found = inputs, frozenset[str]()
    for stage, done in zip(plan.stages, plan.done, strict=True):
        for read, more in count.moments(stage):
            now = held if read else held.difference(done)
            total = count.of((now - inputs) | found) + more
            has_inputs = not now.isdisjoint(inputs)
            most[has_inputs] = max(most[has_inputs], total)
        held = held.union(stage.gives).difference(done)
        found |= wanted.intersection(stage.gives)
    most[0] = max(most[0], count.of((held - inputs) | found))
    alone, beside = map(ceil, most)
    return HeldBytes(beside, alone)


def row_bytes(config: ModelConfig, outputs: Collection[str], itemsize: int) -> int:
    """What a sequence's outputs take that have one row, however many steps it has."""
    size = 0
    if STATE in outputs and config.state is not None:
        size += config.state.rows * (config.state.hidden + config.state.cell) * itemsize
    for name in outputs:
        value = None if name == STATE else config.output_values[name]
        if value is not None and not value.per_step:
            size += _ID_BYTES if value.ids else value.width * itemsize
    return size


def carried_bytes(config: ModelConfig, outputs: Collection[str], itemsize: int) -> int:
    """The most bytes that a live sequence carries from a block to the next, with numbers of
    `itemsize` bytes: states of LSTMs, and rows that windows reach back to."""
    size = 0
    for layer in config.needed(outputs):
        if isinstance(layer, LstmConfig):
            numbers = layer.num_layers * (layer.state_size + layer.hidden_size)
            size += numbers * max(itemsize, _WIDE_BYTES)
        elif isinstance(layer, WindowConfig):
            size += layer.window.left * config.values[layer.inputs[0]].width * itemsize
    return size


class _Counter:
    """Counts bytes for each step."""

    def __init__(self, config: ModelConfig, itemsize: int):
        self._config = config
        self._itemsize = itemsize

    def of(self, references: Iterable[str]) -> float:
        """Those of these values."""
        return sum(map(self._of, references))

    def moments(self, stage: Stage) -> list[tuple[bool, float]]:
        """Whether what the stage reads is still held, and what the stage itself holds then."""
        if not isinstance(stage, LstmStage):
            read = (reference for node in stage.wholes for reference in node.reads)
            wide = max(1.0, _WIDE_BYTES / self._itemsize)
            return [(True, wide * self.of(read) + self.of(stage.gives))]
        y, layers = self._of(stage.lstm.name), stage.config.num_layers
        if layers == 1:
            return [(True, y * stage.holds)]
        # Each layer's output takes the place of what the layer before it has read.
        return [(True, y), (False, y + y * (stage.holds or layers > 2))]

    def _of(self, reference: str) -> float:
        value = self._config.values[reference]
        if not value.per_step:
            return 0.0
        numbers = _ID_BYTES if value.ids else self._itemsize * value.width
        return numbers / prod(thinning.stride for thinning in value.grid.thinnings)
