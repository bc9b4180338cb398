"""In which stages a sequence is computed a slice at a time: what each reads, and what stays held.

A stage is an LSTM, or a sweep from the first step to the last one. Pure: knows a `ModelConfig`, and
no tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..config import STATE, ModelConfig
from ..layers.interface import LayerConfig, WholeConfig
from ..layers.lstm import LstmConfig
from ..layers.pooling import PoolingConfig
from ..layers.values import Grid


@dataclass(frozen=True, slots=True)
class Node:
    """A layer, what it gives that is read, and what nothing reads after it."""

    layer: LayerConfig
    gives: tuple[str, ...]
    done: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The layer's name, and that of its own value."""
        return self.layer.name

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that it is made of."""
        return self.layer.inputs

    @property
    def is_lstm(self) -> bool:
        """Whether it goes through the sequence from either end."""
        return isinstance(self.layer, LstmConfig)

    @property
    def is_whole(self) -> bool:
        """Whether it is a `WholeLayer`."""
        return isinstance(self.layer, WholeConfig)


@dataclass(frozen=True, slots=True)
class Route:
    """The way from values that are held to those that are read: layers of rows and of windows,
    which are computed for each slice anew."""

    targets: tuple[str, ...]  # what is read
    layers: tuple[Node, ...]  # in order
    roots: frozenset[str]  # what is held


@dataclass(frozen=True, slots=True)
class LstmStage:
    """One LSTM, from one end of the sequence to the other, layer by layer."""

    grid: Grid
    lstm: Node
    config: LstmConfig
    route: Route
    poolings: tuple[Node, ...]  # of its output, and of nothing else: they take it as it comes
    holds: bool  # its output, because something else reads it

    @property
    def gives(self) -> tuple[str, ...]:
        """What is held of it in the end."""
        own = self.lstm.gives if self.holds else self.lstm.gives[1:]
        return (*own, *(name for node in self.poolings for name in node.gives))

    @property
    def times(self) -> int:
        """How often it goes through the sequence."""
        return self.config.num_layers

    def key(self, layer: int = 0) -> Hashable:
        """What sequences at this layer have in common, whatever else is asked of them."""
        return self.lstm.name, layer


@dataclass(frozen=True, slots=True)
class SweepStage:
    """All rows of one grid once, for layers that read whole sequences and for outputs with a row
    for each step."""

    grid: Grid
    wholes: tuple[Node, ...]
    outputs: tuple[str, ...]
    route: Route

    @property
    def gives(self) -> tuple[str, ...]:
        """What is held of it in the end."""
        return (*self.outputs, *(name for node in self.wholes for name in node.gives))

    @property
    def times(self) -> int:
        """How often it goes through the sequence."""
        return 1

    def key(self) -> Hashable:
        """What sequences at this sweep have in common."""
        return self.grid, self.gives


Stage = LstmStage | SweepStage


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a sequence, in order."""

    stages: tuple[Stage, ...]
    done: tuple[tuple[str, ...], ...]  # after each stage, what is held that nothing reads any more
    inputs: frozenset[str]  # those of the model that are read
    ending: Route  # to the outputs that have one row for the sequence, when all stages are done


def plan_stages(config: ModelConfig, outputs: Collection[str]) -> Plan:
    """The stages for these outputs. Raises `KeyError` for one that the model does not have."""
    return _Planner(config, outputs).plan()


class _Planner:
    """Sorts values by level: inputs have level 0, and what is known only when a sequence has been
    gone through is a level above what it is made of."""

    def __init__(self, config: ModelConfig, outputs: Collection[str]):
        self._values = config.values
        wanted = dict.fromkeys(config.outputs[name] for name in outputs if name != STATE)
        self._wanted = tuple(wanted)
        nodes = _nodes(config, outputs, self._wanted)
        self._lstms = {node.name: node for node in nodes if node.is_lstm}
        self._fed: dict[str, list[Node]] = {}  # by LSTM
        for node in filter(self._is_fed, nodes):
            self._fed.setdefault(node.reads[0], []).append(node)
        self._wholes = [node for node in nodes if node.is_whole and not self._is_fed(node)]
        pulled = (node for node in nodes if not node.is_lstm and not node.is_whole)
        self._pulled = {node.name: node for node in pulled}
        self._order = {name: index for index, name in enumerate(self._pulled)}
        self._inputs = config.inputs.keys()
        self._levels = dict.fromkeys(config.inputs, 0)
        for node in nodes:
            level = max(self._levels[reference] for reference in node.reads)
            is_higher = node.is_lstm or (node.is_whole and not self._is_fed(node))
            self._levels |= dict.fromkeys(node.gives, level + is_higher)
        read = (r for node in nodes if not self._is_fed(node) for r in node.reads)
        self._held = {*read, *self._wanted}
        self._outputs: dict[int, list[str]] = {}  # that only a sweep gives, by level
        for name in self._wanted:
            if self._values[name].per_step and (name in self._pulled or name in self._inputs):
                self._outputs.setdefault(self._levels[name], []).append(name)

    def _is_fed(self, node: Node) -> bool:
        """Whether it takes an LSTM's output as that is computed, some columns at a time."""
        return isinstance(node.layer, PoolingConfig) and node.reads[0] in self._lstms

    def plan(self) -> Plan:
        """The stages, from the lowest level to the highest."""
        lstms = _by_level(self._lstms.values(), self._levels)
        wholes = _by_level(self._wholes, self._levels)
        stages: list[Stage] = []
        for level in range(1, max(self._levels.values()) + 2):
            stages += self._sweeps(wholes.get(level, []), self._outputs.get(level - 1, []))
            stages += map(self._lstm_stage, lstms.get(level, []))
        ending = self._route(name for name in self._wanted if not self._values[name].per_step)
        last = {
            name: i for i, stage in enumerate(stages) for name in (*stage.gives, *stage.route.roots)
        }
        last |= dict.fromkeys(ending.roots, len(stages))
        done: list[list[str]] = [[] for _ in range(len(stages) + 1)]
        for name, index in last.items():
            done[index].append(name)
        inputs = frozenset(last.keys() & self._inputs)
        return Plan(tuple(stages), tuple(map(tuple, done[:-1])), inputs, ending)

    def _lstm_stage(self, node: Node) -> LstmStage:
        assert isinstance(node.layer, LstmConfig)
        route, grid = self._route(node.reads), self._values[node.name].grid
        poolings = tuple(self._fed.get(node.name, ()))
        return LstmStage(grid, node, node.layer, route, poolings, node.name in self._held)

    def _sweeps(self, wholes: Iterable[Node], outputs: Iterable[str]) -> Iterator[SweepStage]:
        """Those that give these results and these outputs: one for each grid."""
        by_grid: dict[Grid, tuple[list[Node], list[str]]] = {}
        for node in wholes:
            values = (self._values[reference] for reference in node.reads)
            grid = next(value.grid for value in values if value.per_step)
            by_grid.setdefault(grid, ([], []))[0].append(node)
        for name in outputs:
            by_grid.setdefault(self._values[name].grid, ([], []))[1].append(name)
        for grid, (nodes, names) in by_grid.items():
            route = self._route([*(r for node in nodes for r in node.reads), *names])
            yield SweepStage(grid, tuple(nodes), tuple(names), route)

    def _route(self, targets: Iterable[str]) -> Route:
        wanted = tuple(dict.fromkeys(targets))
        seen: set[str] = set()
        ahead = list(wanted)
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += self._pulled[name].reads if name in self._pulled else ()
        names = sorted(seen & self._pulled.keys(), key=self._order.__getitem__)
        layers = [self._pulled[name] for name in names]
        last = {reference: node.name for node in layers for reference in node.reads}
        ends: dict[str, list[str]] = {name: [] for name in names}
        for reference, name in last.items():
            if reference not in wanted:
                ends[name].append(reference)
        layers = [replace(node, done=tuple(ends[node.name])) for node in layers]
        return Route(wanted, tuple(layers), frozenset(seen - self._pulled.keys()))


def _by_level(nodes: Iterable[Node], levels: Mapping[str, int]) -> dict[int, list[Node]]:
    found: dict[int, list[Node]] = {}
    for node in nodes:
        found.setdefault(levels[node.name], []).append(node)
    return found


def _nodes(config: ModelConfig, outputs: Collection[str], wanted: Collection[str]) -> list[Node]:
    layers = config.needed(outputs)
    read = {*wanted, *(reference for layer in layers for reference in layer.inputs)}
    parts: dict[str, list[str]] = {}
    for reference in config.values:
        name, *part = reference.split(".")
        if part:
            parts.setdefault(name, []).append(reference)
    nodes = []
    for layer in layers:
        own = parts.get(layer.name, [])
        nodes.append(Node(layer, (layer.name, *(own if read.intersection(own) else ()))))
    return nodes
