"""One recording of a module: a call with one lone sequence, and what it returned as values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..model.layers.values import Value
from ..quoting import listed
from . import elements
from .crf import decoding
from .example.calls import Caller, InputPart
from .example.structure import Path
from .kept import states_of
from .recorder import recording
from .refusals import Refusal
from .results import Outputs, Result, is_number, named, result_of, returned
from .trace import Trace

_ANY_IDS = 2**28  # until an embedding says how many


@dataclass
class Recording:
    """What a call did, and for each thing that it returned its value or why there is none."""

    trace: Trace
    inputs: dict[int, InputPart]  # by value
    results: dict[Path, Result | Refusal]
    constants: list[Path]  # returned, and depending on no input


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, and afterwards as it was.

    It computes in one thread: threads would wait for each other longer than they compute, at each
    step of a lone sequence.
    """
    modes = {part: part.training for part in module.modules()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    module.eval()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for part, mode in modes.items():
            part.training = mode


def record(module: nn.Module, caller: Caller, steps: int, outputs: Outputs) -> Recording:
    """Call the module with a sequence of so many steps, and record it."""
    trace = Trace.of(module, steps)
    states = list(states_of(module))
    arguments = caller.call(caller.sample(steps, seed=steps))
    for name, tensor in arguments.fixed.items():
        refusal = Refusal(
            f"the argument {name} has not as many steps as the others, and is not zero: it can be "
            "no input, since all of these have one length; make it a part of the module"
        )
        trace.origins.write(tensor, trace.refuse(refusal, tuple(tensor.shape)))
    inputs = {}
    for given in caller.inputs:
        is_ids = given.column is not None
        value = Value(1, ids=_ANY_IDS) if is_ids else Value(given.width)
        slot = trace.graph.input(given.name, value)
        inputs[slot] = given
        view = caller.columns(given, arguments.inputs[given.name])
        rows = np.arange(steps).reshape(-1, *[1] * (view.dim() - 1))
        columns = np.arange(view[0].numel()).reshape(tuple(view.shape[1:]))
        trace.origins.write(view, elements.make(slot, rows, columns))
    changed: list[str] = []
    with evaluating(module), recording(trace), decoding(module, trace):
        result = returned(module, arguments.bound, outputs, changed)
    for name, tensor in states:
        if tensor.untyped_storage()._cdata in trace.begins:
            trace.note(
                f"The LSTM begins with {name}, which the module keeps: each sequence that is "
                "served begins with what it is now."
            )
            changed = [its for its in changed if its != name]
    if changed:
        trace.note(
            f"The module changes its {listed(changed)} when it is called: for each sequence that "
            "is served, it is as it is now."
        )
    results: dict[Path, Result | Refusal] = {}
    constants = []
    with torch.no_grad():
        for path, leaf in named(result, outputs):
            try:
                found = result_of(trace, leaf)
            except Refusal as refusal:
                results[path] = refusal
                continue
            if found is not None:
                results[path] = found
                _note_dtype(trace, path, leaf, found)
            elif not is_number(leaf):
                constants.append(path)
    if not any(slot.node and slot.node.type == "ctc" for slot in trace.graph.slots):
        trace.decisions += trace.comparisons
    return Recording(trace, inputs, results, constants)


def _note_dtype(trace: Trace, path: Path, leaf: object, found: Result) -> None:
    """Tell of what is no float in the module, and is served as one."""
    is_float = not isinstance(leaf, torch.Tensor) or leaf.is_floating_point()
    if not is_float and not trace.graph.value(found.slot).ids:
        name = ".".join(path) or "output"
        trace.note(
            f"The {name} of the module is true or false; what is served is 1 or 0 as a float."
        )
