"""Records a module at several lengths, and makes a config and tensors of what is equal in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ..model.config import KNOWN, STATE, ModelConfig
from ..quoting import first_problem
from .comparing import Graphed, check_equal, check_recorded
from .example.calls import Caller, ExampleCall
from .example.reading import read_example
from .example.roles import Role
from .example.structure import Path
from .naming import default_name, joined_name, named_layers, sorted_nodes
from .placing import bare, example_on_cpu, on_cpu
from .raised import owners_code
from .recording import Recording, evaluating, record
from .refusals import ExportError
from .results import Outputs, Result, named, plain, returned
from .rules import simplified

_OF_THE_STATE = {STATE, "hidden", "cell"}  # names that a model has beside its outputs

Labels = Mapping[str, Sequence[str]] | Sequence[str] | None


@dataclass(frozen=True)
class Converted:
    """A module as a config and tensors, and the module itself to compare with."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]  # what the owner should know, a sentence each
    module: nn.Module = field(repr=False)
    caller: Caller = field(repr=False)
    results: dict[str, tuple[Path, Result]] = field(repr=False)
    outputs: Outputs = field(repr=False)
    shortest: int  # of the numbers of steps that were recorded

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the module itself gives for one lone sequence, its inputs by name: [T, width] of
        floats, or [T] of ids. Outputs are as they are served: [rows, width] or [width] of floats,
        [rows] or [] of integers."""
        count = len(next(iter(inputs.values())))
        arguments = self.caller.call(self.caller.sample(count, seed=0) | dict(inputs))
        with (
            evaluating(self.module),
            torch.no_grad(),
            owners_code(f"the module fails on {count} steps"),
        ):
            result = returned(self.module, arguments.bound, self.outputs)
        leaves = dict(named(result, self.outputs))
        made = {}
        for name, (path, found) in self.results.items():
            value = self.config.output_values[name]
            rows = int(value.grid.rows(np.array([count]))[0]) if value.per_step else 1
            tensor = plain(leaves[path], None if value.sparse else found.axis, rows)
            if value.ids:
                tensor = tensor.reshape(-1 if value.per_step else ())
            made[name] = tensor
        return made

    def sample(self, steps: int, seed: int) -> dict[str, Tensor]:
        """The config's inputs by name, of so many steps, drawn from those of the example; but at
        about every second step any id, or floats that are smaller or larger by up to a half."""
        drawn = self.caller.sample(steps, seed)
        generator = torch.Generator().manual_seed(seed)
        changed = {}
        for name, given in self.config.inputs.items():
            own = drawn[name]
            is_kept = torch.rand(steps, generator=generator) < 0.5
            if given.ids:
                every = torch.arange(given.ids)
                every = every[every != (-1 if given.padding_id is None else given.padding_id)]
                others = every[torch.randint(len(every), (steps,), generator=generator)]
                changed[name] = torch.where(is_kept, own, others.to(own))
            elif own.is_floating_point():
                factors = 0.5 + torch.rand(steps, generator=generator).to(own)
                changed[name] = own * torch.where(is_kept, 1.0, factors).to(own)[:, None]
            else:
                changed[name] = own
        return changed


def convert(
    module: nn.Module,
    example: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    lengths: Any = None,
    outputs: Outputs = None,
    labels: Labels = None,
    version: int = 1,
) -> Converted:
    """Convert a module to a config and tensors. It is called with `example` and `kwargs`.

    The arguments are as `export` has them. Raises `ExportError`, in one line, for what can't be
    converted.
    """
    if not isinstance(module, nn.Module):
        raise ExportError(f"module: expected an nn.Module, got {type(module).__name__}")
    module = on_cpu(bare(module))
    given = ExampleCall.of(module, example_on_cpu(example), example_on_cpu(kwargs))
    with evaluating(module), torch.no_grad():
        caller, several = read_example(
            module, given, lengths, lambda arguments: returned(module, arguments, outputs)
        )
        caller = _with_roles(module, caller, several[0], outputs)
        recordings = [record(module, caller, steps, outputs) for steps in several]
    check_recorded(recordings)
    graphs = [_graphed(recording) for recording in recordings]
    check_equal(graphs, several)
    return _converted(module, caller, recordings[0], graphs[0], outputs, labels, version)


def _with_roles(module: nn.Module, caller: Caller, steps: int, outputs: Outputs) -> Caller:
    """Find which integers are ids: those that an embedding reads. Others are the same at each
    step, as masks are, or numbers."""
    recorded = record(module, caller, steps, outputs)
    for slot, padding in recorded.trace.padded.items():
        shorter = caller.without_padding(recorded.inputs[slot], padding)
        if shorter.guess != caller.guess:
            return _with_roles(module, shorter, steps, outputs)
    fixed = set()
    for slot, given in recorded.inputs.items():
        if given.column is None or slot in recorded.trace.ids:
            continue
        if not caller.is_uniform(given):
            return _with_roles(module, caller.with_role(given.path, Role.FLOATS), steps, outputs)
        fixed.add((given.path, given.column))
    return caller.without(fixed)


def _graphed(recording: Recording) -> Graphed:
    graph = recording.trace.graph
    slots = {
        path: result.slot
        for path, result in recording.results.items()
        if isinstance(result, Result)
    }
    slots = simplified(graph, slots)
    nodes = sorted_nodes(graph, slots.values())
    names = {slot: given.name for slot, given in recording.inputs.items()}
    layers, references, tensors = named_layers(graph, nodes, names)
    outputs = {path: references[slot] for path, slot in slots.items()}
    return Graphed(layers, [node.place for node in nodes], tensors, outputs, slots)


def _converted(
    module: nn.Module,
    caller: Caller,
    recording: Recording,
    graphed: Graphed,
    outputs: Outputs,
    labels: Labels,
    version: int,
) -> Converted:
    trace = recording.trace
    names = _output_names(recording, graphed)
    used = {source for layer in graphed.layers for source in layer["inputs"]}
    inputs: dict[str, dict[str, int]] = {}
    notes = list(trace.notes)
    for slot, given in recording.inputs.items():
        if given.name not in used | set(graphed.outputs.values()):
            notes.append(f"The argument {given.name} changes no output, and is no input.")
        elif given.column is None:
            inputs[given.name] = {"width": given.width}
        else:
            inputs[given.name] = {"ids": trace.ids[slot]}
            if slot in trace.padding:
                inputs[given.name]["padding_id"] = trace.padding[slot]
                notes.append(
                    f"The module takes id {trace.padding[slot]} of {given.name} for padding: a "
                    "sequence with it is refused."
                )
    notes += [
        f"The module returns {'.'.join(path) or 'something'}, which depends on no input that can "
        "be followed, and is not served."
        for path in recording.constants
    ]
    results = {}
    for path, name in names.items():
        result = recording.results[path]
        assert isinstance(result, Result)
        results[name] = (path, result)
        if result.is_transposed:
            notes.append(f"The output {name} is served with its steps first.")
    content = {
        "format": 2,
        "version": version,
        "inputs": inputs,
        "layers": graphed.layers,
        "outputs": {name: graphed.outputs[path] for path, name in names.items()},
    }
    try:
        config = ModelConfig.model_validate(content)
        content["labels"] = _labels(config, labels)
        config = ModelConfig.model_validate(content)
    except ValidationError as error:
        raise ExportError(first_problem(error)) from error
    return Converted(
        config, graphed.tensors, tuple(notes), module, caller, results, outputs, trace.graph.steps
    )


def _output_names(recording: Recording, graphed: Graphed) -> dict[Path, str]:
    """A name for each output: the module's own, or one by what it is."""
    names: dict[Path, str] = {}
    graph = recording.trace.graph
    for path, slot in graphed.slots.items():
        name = joined_name(path) or default_name(graph, slot)
        value = graph.value(slot)
        per_step, ids = KNOWN.get(name, (None, bool(value.ids)))
        if (
            name in _OF_THE_STATE
            or ids != bool(value.ids)
            or per_step not in (None, value.per_step)
        ):
            name = f"{name}_output"
        free, count = name, 1
        while free in names.values():
            count += 1
            free = f"{name}_{count}"
        names[path] = free
    return names


def _labels(config: ModelConfig, labels: Labels) -> dict[str, list[str]]:
    """The names of classes for each output: a list is for all that have so many."""
    if not labels:
        return {}
    if isinstance(labels, Mapping):
        return {name: list(classes) for name, classes in labels.items()}
    found = {
        name: list(labels)
        for name, value in config.output_values.items()
        if name in ("logits", "probabilities", "log_probabilities", "labels")
        and (value.ids or value.width) == len(labels)
    }
    if not found:
        raise ExportError(f"labels: no output has {len(labels)} classes")
    return found
