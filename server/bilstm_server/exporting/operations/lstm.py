"""torch's LSTM, as nn.LSTM calls it: one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .. import elements
from ..columns import value_of
from ..elements import Elements
from ..refusals import Place, Refusal, is_narrow, narrow_words
from ..rows import raise_refusal
from ..splicing import reversed_steps, steps_of
from ..trace import Numbers, Trace, numbers


class Arguments(NamedTuple):
    """What torch.lstm was called with."""

    x: Tensor
    states: Sequence[Tensor]
    weights: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    bidirectional: bool
    batch_first: bool
    is_packed: bool

    @classmethod
    def of(cls, args: Sequence[Any]) -> Arguments:
        """Of either form: packed data and batch sizes, or a tensor."""
        if isinstance(args[1], Tensor):
            x, _, states, weights, biases, layers, _, _, directions = args
            return cls(x, states, weights, biases, layers, directions, False, True)
        x, states, weights, biases, layers, _, _, directions, batch_first = args
        return cls(x, states, weights, biases, layers, directions, batch_first, False)


def lstm(trace: Trace, call: Arguments, result: tuple[Tensor, Tensor, Tensor]) -> None:
    """Make the layer, if anything that the LSTM reads depends on an input."""
    place = trace.places.here()
    trace.count(place)
    if not any(map(trace.depends, (call.x, *call.states, *call.weights))):
        return
    try:
        made = _lstm(trace, call, result, place)
    except Refusal as refusal:
        made = tuple(trace.refuse(refusal, tuple(tensor.shape)) for tensor in result)
    for tensor, where in zip(result, made, strict=True):
        trace.origins.write(tensor, where)


def _lstm(
    trace: Trace, call: Arguments, result: tuple[Tensor, Tensor, Tensor], place: Place
) -> tuple[Elements, ...]:
    if is_narrow(result[0]):
        raise Refusal(narrow_words(result[0]), place)
    where, known = trace.elements(call.x), numbers(call.x)
    raise_refusal(trace.graph, where)
    if any(map(trace.depends, call.weights)):
        raise Refusal("the LSTM's weights depend on the sequence, which has no layer", place)
    for state in call.states:
        trace.begins.add(state.untyped_storage()._cdata)
        if trace.depends(state):
            raise_refusal(trace.graph, trace.elements(state))
            raise Refusal(
                "the LSTM begins with a state that depends on the sequence, as a decoder's does; "
                "only fixed or learned ones have a layer. Serve the model before it",
                place,
            )
    if call.is_packed:
        where, known = where[:, None], known[:, None]
    elif call.batch_first:
        where, known = where.transpose(1, 0, 2), known.transpose(1, 0, 2)
    outputs, hidden, cells = zip(
        *(_one(trace, call, where[:, b], known[:, b], b, place) for b in range(where.shape[1])),
        strict=True,
    )
    output = np.stack(outputs, axis=1)
    output = (
        output[:, 0]
        if call.is_packed
        else output.transpose(1, 0, 2)
        if call.batch_first
        else output
    )
    return output, np.stack(hidden, axis=1), np.stack(cells, axis=1)


def _one(
    trace: Trace, call: Arguments, steps: Elements, known: Numbers, b: int, place: Place
) -> tuple[Elements, Elements, Elements]:
    """One sequence [steps, D]: its outputs, and the rows of its final states."""
    graph = trace.graph
    found = steps_of(graph, steps, known, place)
    if found is None:
        raise Refusal(_why(trace, steps), place)
    source = value_of(graph, found.columns, place)
    direction = -1 if found.is_reversed else 1
    if found.is_reversed and call.bidirectional:
        source, direction = reversed_steps(graph, source, place), 1
    rows = call.num_layers * (2 if call.bidirectional else 1)
    h_0, c_0 = (state[:, b] for state in call.states)
    tensors = _parameters(call)
    learned = bool(h_0.any() or c_0.any())
    if learned:
        tensors |= {"h_0": h_0, "c_0": c_0}
    hidden_size, size = c_0.shape[1], h_0.shape[1]
    fields: dict[str, Any] = {"hidden_size": hidden_size, "num_layers": call.num_layers}
    if size != hidden_size:
        fields["proj_size"] = size
    fields |= {"bias": call.has_biases, "bidirectional": call.bidirectional}
    fields |= {"reverse": direction < 0, "initial_states": learned}
    value = graph.value(source)
    gives = {
        "": value.of_width(size * rows // call.num_layers),
        "hidden": value.per_sequence(rows * size),
        "cell": value.per_sequence(rows * hidden_size),
    }
    node = graph.add("lstm", [source], gives, place, tensors, **_said(fields))
    order = np.arange(len(steps))[::direction, None]
    outputs = elements.make(node.slot, order, np.arange(gives[""].width))
    states = [
        elements.make(node.gives[part], 0, np.arange(gives[part].width)).reshape(rows, -1)
        for part in ("hidden", "cell")
    ]
    return outputs, states[0], states[1]


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not as they would be unsaid."""
    unsaid = {
        "num_layers": 1,
        "bias": True,
        "bidirectional": True,
        "reverse": False,
        "initial_states": False,
    }
    return {name: value for name, value in fields.items() if unsaid.get(name) != value}


def _parameters(call: Arguments) -> dict[str, Tensor]:
    """The weights by nn.LSTM's names."""
    kinds = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if call.has_biases else [])
    directions = ("", "_reverse") if call.bidirectional else ("",)
    if len(call.weights) > len(kinds) * call.num_layers * len(directions):
        kinds.append("weight_hr")
    names = [
        f"{kind}_l{layer}{direction}"
        for layer in range(call.num_layers)
        for direction in directions
        for kind in kinds
    ]
    return dict(zip(names, (weight.detach() for weight in call.weights), strict=True))


def _why(trace: Trace, steps: Elements) -> str:
    if len(steps) == 1 and trace.graph.steps > 1:
        return (
            "the LSTM runs over an axis that is not the steps, so that it sees each step alone; "
            "is its batch_first as the tensors are?"
        )
    return (
        "the LSTM reads something else than all steps in order: some are left out, repeated, or "
        "joined; there is no layer for this"
    )
