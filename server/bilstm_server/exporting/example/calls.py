"""Calls of the module for one lone sequence of any length, made from the example."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..refusals import ExportError
from .roles import Guess, Part, Role
from .structure import Path, leaves, mapped, name_of, names_of


@dataclass(frozen=True)
class ExampleCall:
    """What the owner's module is called with."""

    arguments: inspect.BoundArguments

    @classmethod
    def of(cls, module: nn.Module, example: Any, kwargs: Mapping[str, Any] | None) -> ExampleCall:
        """Of the arguments of `module(*example, **kwargs)`, or of `module(example)`."""
        args = example if type(example) is tuple else (example,)
        try:
            return cls(inspect.signature(module.forward).bind(*args, **(kwargs or {})))
        except TypeError as error:
            raise ExportError(f"example: {type(module).__name__}.forward has {error}") from error

    @property
    def tree(self) -> dict[str, Any]:
        """The arguments by the names of the parameters of `forward`."""
        return dict(self.arguments.arguments)

    def with_tree(self, tree: Mapping[str, Any]) -> inspect.BoundArguments:
        """Other arguments in the same places."""
        return inspect.BoundArguments(self.arguments.signature, dict(tree))


@dataclass(frozen=True)
class Arguments:
    """What the module is called with, and the tensors in it: of each input, and of what is fixed
    although it is not zero."""

    bound: inspect.BoundArguments
    inputs: dict[str, Tensor]
    fixed: dict[str, Tensor]


@dataclass(frozen=True)
class InputPart:
    """An input of the model: where the module takes it from."""

    name: str
    path: Path
    column: int | None = None  # of ids: which of those of a step
    width: int = 1  # of floats


@dataclass
class Caller:
    """Makes the module's arguments for one sequence."""

    example: ExampleCall
    guess: Guess
    fixed: set[tuple[Path, int]] = field(default_factory=set)
    """Columns of integers that are the same at each step, as those of masks are."""

    @property
    def fixed_numbers(self) -> list[Path]:
        """Tensors without steps that are not zero: numbers of the example alone."""
        paths = {part.path for part in self.guess.parts if part.role is Role.FIXED}
        return [
            path
            for path, leaf in leaves(self.example.tree)
            if path in paths and isinstance(leaf, Tensor) and bool((leaf != 0).any())
        ]

    @property
    def inputs(self) -> list[InputPart]:
        """The model's inputs, in the order of the arguments."""
        found: list[InputPart] = []
        parts = [p for p in self.guess.parts if p.time is not None and p.role is not Role.MASK]
        names = names_of([part.path for part in parts])
        for part in parts:
            width = self._steps(part).shape[1]
            if part.role is Role.FLOATS:
                found.append(InputPart(names[part.path], part.path, None, width))
                continue
            columns = [c for c in range(width) if (part.path, c) not in self.fixed]
            for column in columns:
                name = names[part.path]
                name = name if len(columns) == 1 else f"{name}_{column}"
                found.append(InputPart(name, part.path, column))
        return _unique(found)

    def sample(self, steps: int, seed: int) -> dict[str, Tensor]:
        """Inputs by name of so many steps, drawn from those of the example: [steps, width] of
        floats, or [steps] of ids."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for given in self.inputs:
            own = self._steps(self._part(given.path))
            if given.column is not None:
                ids = torch.unique(own[:, given.column])
                drawn[given.name] = ids[torch.randint(len(ids), (steps,), generator=generator)]
                continue
            rows = own[torch.randint(len(own), (steps,), generator=generator)]
            if len(own) > 1 and bool((own == own[:1]).all()):
                rows = rows + torch.randn(rows.shape, generator=generator).to(rows.dtype)
            drawn[given.name] = rows
        return drawn

    def call(self, inputs: Mapping[str, Tensor]) -> Arguments:
        """The arguments for one sequence."""
        steps = len(next(iter(inputs.values())))
        by_path: dict[Path, dict[int | None, Tensor]] = {}
        for given in self.inputs:
            by_path.setdefault(given.path, {})[given.column] = inputs[given.name]
        made: dict[Path, Tensor] = {}

        def leaf(path: Path, value: Any) -> Any:
            part = self._part(path)
            if part.role is Role.LENGTHS:
                return _length(value, steps)
            if part.time is None:
                return value.clone() if isinstance(value, Tensor) else value
            made[path] = self._filled(part, value, by_path.get(path, {}), steps)
            return made[path]

        tree = mapped(self.example.tree, leaf)
        fixed = self.fixed_numbers
        tensors = {given.name: made[given.path] for given in self.inputs}
        unnamed = {name_of(path): its for path, its in leaves(tree) if path in fixed}
        return Arguments(self.example.with_tree(tree), tensors, unnamed)

    def columns(self, given: InputPart, tensor: Tensor) -> Tensor:
        """Where an input is in its tensor: a view [steps, width] of floats, or [steps] of ids."""
        part = self._part(given.path)
        assert part.time is not None
        steps = tensor.movedim(part.time, 0)
        if given.column is None:
            return steps
        index = torch.arange(tensor.numel() // len(steps)).reshape(steps.shape[1:])
        at = (index == given.column).nonzero()[0].tolist()
        return steps[(slice(None), *at)]

    def without(self, columns: set[tuple[Path, int]]) -> Caller:
        """A caller for which these columns of integers are no inputs."""
        return Caller(self.example, self.guess, self.fixed | columns)

    def with_role(self, path: Path, role: Role) -> Caller:
        """A caller for which an argument is something else."""
        parts = tuple(replace(p, role=role) if p.path == path else p for p in self.guess.parts)
        return Caller(self.example, replace(self.guess, parts=parts), self.fixed)

    def without_padding(self, given: InputPart, padding: int) -> Caller:
        """A caller that takes the sequence with the most ids that are no padding, which is behind
        them; the same if that is the one that it takes."""
        part = self._part(given.path)
        value = next(value for path, value in leaves(self.example.tree) if path == part.path)
        assert part.time is not None
        steps = value.movedim(part.time, 0)
        if part.batch is None:
            sequences = steps.reshape(1, len(steps), -1)
        else:
            moved = value.movedim((part.batch, part.time), (0, 1))
            sequences = moved.reshape(*moved.shape[:2], -1)
        column = 0 if given.column is None else given.column
        counts = (sequences[..., column] != padding).sum(dim=1)
        longest = int(counts.argmax())
        guess = replace(self.guess, sequence=longest, steps=int(counts[longest]))
        return Caller(self.example, guess, self.fixed)

    def is_uniform(self, given: InputPart) -> bool:
        """Whether the example has the same number at each step."""
        own = self._steps(self._part(given.path))
        column = own if given.column is None else own[:, given.column]
        return bool((column == column[0]).all())

    def _part(self, path: Path) -> Part:
        return next(part for part in self.guess.parts if part.path == path)

    def _steps(self, part: Part) -> Tensor:
        """The example's own steps of the sequence that is taken: [steps, width]."""
        value = next(value for path, value in leaves(self.example.tree) if path == part.path)
        lone = self._lone(part, value)
        assert part.time is not None
        steps = lone.movedim(part.time, 0)[: self.guess.steps]
        return steps.reshape(len(steps), -1)

    def _lone(self, part: Part, value: Tensor) -> Tensor:
        if part.batch is None:
            return value
        return value.narrow(part.batch, self.guess.sequence, 1)

    def _filled(
        self, part: Part, value: Tensor, columns: Mapping[int | None, Tensor], steps: int
    ) -> Tensor:
        """A tensor in the form of the example's, with so many steps."""
        lone = self._lone(part, value)
        assert part.time is not None
        own = self._steps(part)
        if None in columns:
            rows = columns[None].to(value, copy=True)  # which the module may write into
        else:
            rows = own[:1].repeat(steps, 1)
            for column, given in columns.items():
                rows[:, column] = given.to(value)
        shape = lone.movedim(part.time, 0).shape[1:]
        return rows.reshape(steps, *shape).movedim(0, part.time).contiguous()


def _length(value: Any, steps: int) -> Any:
    if isinstance(value, Tensor):
        return torch.full_like(value[:1] if value.dim() else value, steps)
    if isinstance(value, np.ndarray):
        return np.full_like(value[:1], steps)
    return type(value)([steps]) if isinstance(value, list | tuple) else steps


def _unique(found: list[InputPart]) -> list[InputPart]:
    """The same with names of which no two are alike."""
    names: set[str] = set()
    result = []
    for part in found:
        name, count = part.name, 1
        while name in names:
            count += 1
            name = f"{part.name}_{count}"
        names.add(name)
        result.append(replace(part, name=name))
    return result
