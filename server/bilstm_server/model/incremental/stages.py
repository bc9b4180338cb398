"""In which stages a sequence is computed a slice at a time: what each reads, and what stays held.

A stage is an LSTM, or a sweep from the first step to the last one. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from ..config import STATE, ModelConfig
from ..graph import SequenceEncoder, Step
from ..layers.interface import WholeLayer
from ..layers.lstm import Lstm, LstmConfig
from ..layers.pooling import Pooling
from ..layers.values import Grid


@dataclass(frozen=True, slots=True)
class Route:
    """The way from values that are held to those that are read: layers of rows and of windows,
    which are computed for each slice anew."""

    targets: tuple[str, ...]  # what is read
    layers: tuple[Step, ...]  # in order
    roots: frozenset[str]  # what is held


@dataclass(frozen=True, slots=True)
class LstmStage:
    """One LSTM, from one end of the sequence to the other, layer by layer."""

    grid: Grid
    lstm: Step
    route: Route
    poolings: tuple[Step, ...]  # of its output, and of nothing else: they take it as it comes
    holds: bool  # its output, because something else reads it

    @property
    def config(self) -> LstmConfig:
        """The LSTM's sizes."""
        return cast(LstmConfig, self.lstm.config)

    @property
    def gives(self) -> tuple[str, ...]:
        """What is held of it in the end."""
        own = self.lstm.gives if self.holds else self.lstm.gives[1:]
        return (*own, *(name for step in self.poolings for name in step.gives))


@dataclass(frozen=True, slots=True)
class SweepStage:
    """All rows of one grid once, for layers that read whole sequences and for outputs with a row
    for each step."""

    grid: Grid
    wholes: tuple[Step, ...]
    outputs: tuple[str, ...]
    route: Route

    @property
    def gives(self) -> tuple[str, ...]:
        """What is held of it in the end."""
        return (*self.outputs, *(name for step in self.wholes for name in step.gives))


Stage = LstmStage | SweepStage


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a sequence, in order."""

    stages: tuple[Stage, ...]
    keeps: tuple[frozenset[str], ...]  # after each stage, what will still be read or is asked for
    ending: Route  # to the outputs that have one row for the sequence, when all stages are done


def plan_stages(encoder: SequenceEncoder, outputs: Collection[str]) -> Plan:
    """The stages for these outputs. Raises `KeyError` for one that the model does not have."""
    steps = encoder.plan(frozenset(outputs))
    wanted = dict.fromkeys(encoder.config.outputs[name] for name in outputs if name != STATE)
    return _Planner(encoder.config, steps, tuple(wanted)).plan()


class _Planner:
    """Sorts values by level: inputs have level 0, and what is known only when a sequence has been
    gone through is a level above what it is made of."""

    def __init__(self, config: ModelConfig, steps: Sequence[Step], wanted: tuple[str, ...]):
        self._values = config.values
        self._wanted = wanted
        self._lstms = {step.gives[0]: step for step in steps if isinstance(step.module, Lstm)}
        self._fed = [step for step in steps if self._is_fed(step)]
        self._wholes = {
            step.gives[0]: step
            for step in steps
            if isinstance(step.module, WholeLayer) and not self._is_fed(step)
        }
        self._pulled = {
            step.gives[0]: step for step in steps if not isinstance(step.module, Lstm | WholeLayer)
        }
        self._order = {name: index for index, name in enumerate(self._pulled)}
        self._levels = dict.fromkeys(config.inputs, 0)
        for step in steps:
            level = max(self._levels[reference] for reference in step.reads)
            if step.gives[0] in self._lstms or step.gives[0] in self._wholes:
                level += 1
            self._levels |= dict.fromkeys(step.gives, level)
        others = (r for step in steps if not self._is_fed(step) for r in step.reads)
        self._held = {*others, *wanted}

    def _is_fed(self, step: Step) -> bool:
        """Whether it takes an LSTM's output as that is computed, some columns at a time."""
        return isinstance(step.module, Pooling) and step.reads[0] in self._lstms

    def plan(self) -> Plan:
        """The stages, from the lowest level to the highest."""
        stages: list[Stage] = []
        for level in range(1, max(self._levels.values()) + 2):
            stages += self._sweeps(level)
            stages += self._lstm_stages(level)
        ending = self._route(name for name in self._wanted if not self._values[name].per_step)
        keeps = []
        later = {*self._wanted, *ending.roots}
        for stage in reversed(stages):
            keeps.append(frozenset(later))
            later |= stage.route.roots
        return Plan(tuple(stages), tuple(reversed(keeps)), ending)

    def _lstm_stages(self, level: int) -> Iterator[LstmStage]:
        for name, step in self._lstms.items():
            if self._levels[name] == level:
                poolings = tuple(own for own in self._fed if own.reads[0] == name)
                route, grid = self._route(step.reads), self._values[name].grid
                yield LstmStage(grid, step, route, poolings, name in self._held)

    def _sweeps(self, level: int) -> Iterator[SweepStage]:
        """Those for what is known at this level, and for outputs of the level below."""
        wholes: dict[Grid, list[Step]] = {}
        outputs: dict[Grid, list[str]] = {}
        for name, step in self._wholes.items():
            if self._levels[name] == level:
                values = (self._values[reference] for reference in step.reads)
                grid = next(value.grid for value in values if value.per_step)
                wholes.setdefault(grid, []).append(step)
        for name in self._wanted:
            is_computed = name in self._pulled or self._levels[name] == 0
            if is_computed and self._values[name].per_step and self._levels[name] == level - 1:
                outputs.setdefault(self._values[name].grid, []).append(name)
        for grid in dict.fromkeys([*wholes, *outputs]):
            steps, own = wholes.get(grid, []), outputs.get(grid, [])
            route = self._route([*(r for step in steps for r in step.reads), *own])
            yield SweepStage(grid, tuple(steps), tuple(own), route)

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
        last = {reference: step for step in layers for reference in step.reads}
        ending = [
            replace(
                step, done=tuple(r for r, own in last.items() if own is step and r not in wanted)
            )
            for step in layers
        ]
        return Route(wanted, tuple(ending), frozenset(seen - self._pulled.keys()))
