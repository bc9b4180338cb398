"""ONNX's `LSTM`: W [K, 4H, D], R [K, 4H, H] and B [K, 8H], whose gates come as input, output,
forget, cell; nn.LSTM's come as input, forget, cell, output.
"""

from __future__ import annotations

import numpy as np

from ..drafts import Array
from .axes import SEQUENCES, STEPS, Axis, Misread, Rows, columns
from .nodes import Node
from .packing import is_order

_GATES = (0, 2, 3, 1)
_FUNCTIONS = ["sigmoid", "tanh", "tanh"]
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def lstm(node: Node) -> list[Rows]:
    """Its output at each step, and the hidden and cell state after the last one."""
    x, weight_ih, weight_hh = _input(node), node.numbers(1), node.numbers(2)
    direction = str(node.attribute("direction", "forward"))
    number, hidden_size = _DIRECTIONS.get(direction, 0), weight_hh.shape[-1]
    _check(node, number)
    if len(weight_ih) != number or weight_hh.shape != (number, 4 * hidden_size, hidden_size):
        raise ValueError(f"is {direction}, and W, R or B are of other shapes")
    bias = node.optional(3)
    tensors: dict[str, Array] = {}
    for place, suffix in zip(range(number), ("", "_reverse"), strict=False):
        tensors[f"weight_ih_l0{suffix}"] = _gates(weight_ih[place])
        tensors[f"weight_hh_l0{suffix}"] = _gates(weight_hh[place])
        if bias is not None:
            of_input, of_state = np.split(bias[place], 2)
            tensors[f"bias_ih_l0{suffix}"] = _gates(of_input)
            tensors[f"bias_hh_l0{suffix}"] = _gates(of_state)
    states = _initial_states(node, number, hidden_size)
    value = node.add(
        "lstm",
        x.value,
        tensors | states,
        hidden_size=hidden_size,
        bias=bias is not None,
        bidirectional=number == 2,
        reverse=direction == "reverse",
        initial_states=bool(states),
    )
    return _results(node, x, value, columns(number, hidden_size))


def _input(node: Node) -> Rows:
    """X, whose axes must be steps, sequences and columns, or with layout 1 sequences first."""
    x = node.rows()
    order = x.axes if node.attribute("layout", 0) == 0 else (x.axes[1], x.axes[0], *x.axes[2:])
    steps, sequences, *rest = order
    if (
        steps.rows != (STEPS,)
        or not (sequences.rows == (SEQUENCES,) or (not sequences.rows and sequences.size == 1))
        or [axis.rows for axis in rest] != [()]
    ):
        raise Misread("reads no [steps, sequences, columns]")
    return x


def _results(node: Node, x: Rows, value: str, sizes: tuple[Axis, ...]) -> list[Rows]:
    directions, hidden = sizes
    steps, sequences = x.axes[:2]
    if node.attribute("layout", 0) == 0:
        y, state = (steps, directions, sequences, hidden), (directions, sequences, hidden)
    else:
        steps, sequences = sequences, steps
        y, state = (sequences, steps, directions, hidden), (sequences, directions, hidden)
    return [Rows(value, y), Rows(f"{value}.hidden", state), Rows(f"{value}.cell", state)]


def _check(node: Node, directions: int) -> None:
    """Refuse what other equations than nn.LSTM's need."""
    functions = [str(name).lower() for name in node.attribute("activations", [])]
    if functions and functions != _FUNCTIONS * directions:
        raise ValueError(f"its activations are {functions}, expected {_FUNCTIONS}")
    if node.attribute("clip", None) is not None or node.attribute("input_forget", 0):
        raise ValueError("clips, or couples its input and forget gates, which is not served")
    peepholes = node.optional(7)
    if peepholes is not None and peepholes.any():
        raise ValueError("has peepholes, which are not served")
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    if lengths is not None and not is_order(node, lengths):
        raise ValueError("reads lengths that are no input of the model's")


def _initial_states(node: Node, directions: int, hidden_size: int) -> dict[str, Array]:
    """The initial states where they are not zeros: h_0 and c_0 [K, H], learned ones."""
    states = {}
    for place, name in ((5, "h_0"), (6, "c_0")):
        tensor = node.inputs[place] if place < len(node.inputs) else None
        if isinstance(tensor, Rows):
            _take_for_state(node, tensor)
            tensor = None
        state = np.zeros((directions, 1, hidden_size)) if tensor is None else tensor
        if node.attribute("layout", 0):
            state = state.swapaxes(0, 1)
        if state.ndim != 3 or (state != state[:, :1]).any():
            raise ValueError("its initial states differ from sequence to sequence")
        states[name] = np.broadcast_to(state[:, 0], (directions, hidden_size))
    return states if any(state.any() for state in states.values()) else {}


def _take_for_state(node: Node, tensor: Rows) -> None:
    """Allow an initial state that is an input of the model: here every model has one."""
    name = tensor.value
    if name not in node.draft.inputs:
        raise ValueError("its initial states are computed from the inputs, which is not served")
    node.draft.note(
        f"input {name} is an initial state: here it is zeros, or what a caller gives as "
        "initial_state of a model with one LSTM"
    )


def _gates(array: Array) -> Array:
    """The blocks of four gates [4 H, …], in nn.LSTM's order."""
    return np.concatenate([np.split(array, 4)[gate] for gate in _GATES])
