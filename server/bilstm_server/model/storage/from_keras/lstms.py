"""Keras's LSTMs: `kernel` [D, 4H], `recurrent_kernel` [H, 4H] and one `bias` [4H], whose gates come
as nn.LSTM's do: input, forget, cell, output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..drafts import Array
from .call import Call

_MERGES = {"sum": "sum", "ave": "mean"}


def lstm(call: Call) -> Sequence[str]:
    """`LSTM`: its output, and with `return_state` the last hidden and cell state."""
    _check(call)
    reverse = call.settings.flag("go_backwards")
    bias = call.settings.flag("use_bias", True)
    y = call.add(
        "lstm",
        call.read(),
        parameters(call.arrays(2 + bias)),
        hidden_size=call.settings.size("units"),
        bidirectional=False,
        bias=bias,
        reverse=reverse,
    )
    output = y
    if not call.settings.flag("return_sequences"):
        output = call.add("first" if reverse else "last", y)
    elif reverse:  # Keras gives the steps in the order in which it computes them
        output = call.add("reverse_steps", y)
    return output, f"{y}.hidden", f"{y}.cell"


def bidirectional(call: Call) -> Sequence[str]:
    """`Bidirectional` of an LSTM: its output, and with `return_state` each direction's states."""
    forward = _inside(call, "layer")
    backward = _inside(call, "backward_layer") if "backward_layer" in call.settings else forward
    units, bias = _sizes(forward)
    if _sizes(backward) != (units, bias):
        raise ValueError("its directions have different sizes, which is not served")
    if forward.settings.flag("go_backwards") or (
        backward is not forward and not backward.settings.flag("go_backwards")
    ):
        raise ValueError("its layers do not go forward and backward, which is not served")
    arrays = call.arrays(2 * (2 + bias))
    half = len(arrays) // 2
    tensors = parameters(arrays[:half]) | parameters(arrays[half:], "_reverse")
    y = call.add("lstm", call.read(), tensors, hidden_size=units, bias=bias)
    states = [
        call.draft.add(
            "columns",
            f"{y}.{part}",
            f"{call.name}_{direction}_{part}",
            start=start,
            stop=start + units,
        )
        for direction, start in (("forward", 0), ("backward", units))
        for part in ("hidden", "cell")
    ]
    output = y if forward.settings.flag("return_sequences") else call.add("final", y)
    return (*_merge(call, output, units), *states)


def _merge(call: Call, both: str, units: int) -> list[str]:
    """Join the two directions' columns as `merge_mode` says."""
    mode = call.settings.word("merge_mode") if "merge_mode" in call.settings else None
    if mode == "concat":
        return [both]
    if mode in _MERGES:
        return [call.add("reduce", both, shape=(2, units), axis=0, function=_MERGES[mode])]
    directions = [
        call.add("columns", both, start=0, stop=units),
        call.add("columns", both, start=units, stop=2 * units),
    ]
    if mode == "mul":
        return [call.add("multiply", directions)]
    if mode is None:
        return directions
    raise ValueError(f"merge_mode is {mode!r}, expected concat, sum, ave or mul")


def _inside(call: Call, name: str) -> Call:
    """One of the layers that a `Bidirectional` has inside."""
    entry = call.settings.settings(name)
    if (kind := entry.word("class_name")) != "LSTM":
        raise ValueError(f"has a {kind} inside, and only an LSTM is served")
    inside = Call(
        call.name, kind, entry.settings("config"), call.reads, (), call.read_weights, call.draft
    )
    _check(inside)
    return inside


def _check(call: Call) -> None:
    call.expect("activation", "tanh")
    call.expect("recurrent_activation", "sigmoid", default="hard_sigmoid")
    call.refuse("time_major")
    if call.settings.flag("stateful"):
        call.draft.note(
            f"layer {call.name} is stateful: here each sequence begins with a state of zeros, and "
            "a live stream goes on with its own"
        )


def _sizes(call: Call) -> tuple[int, bool]:
    return call.settings.size("units"), call.settings.flag("use_bias", True)


def parameters(arrays: Sequence[Array], suffix: str = "") -> dict[str, Array]:
    """nn.LSTM's parameters of one direction. Keras adds one bias, nn.LSTM two."""
    kernel, recurrent, *biases = arrays
    parameters = {
        f"weight_ih_l0{suffix}": kernel.T,
        f"weight_hh_l0{suffix}": recurrent.T,
    }
    for bias in biases:
        parameters[f"bias_ih_l0{suffix}"] = bias
        parameters[f"bias_hh_l0{suffix}"] = np.zeros_like(bias)
    return parameters
