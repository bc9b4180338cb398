"""An LSTM over blocks of sequences that are still going on, and their contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..bilstm import States
from ..kernels import DirectionInput, Layer, state_type, to_device
from ..layers.lstm import Lstm, LstmConfig
from .live_rows import Layout


class LiveState(NamedTuple):
    """What the forward direction carries to a sequence's next block."""

    h: Tensor  # [layers, P], of the kernels' `state_type`
    c: Tensor  # [layers, H]


def looks_ahead(config: LstmConfig) -> bool:
    """Whether a block's outputs depend on the context."""
    return config.bidirectional or config.reverse


def run_lstm(
    lstm: Lstm,
    x: Tensor,
    layout: Layout,
    ahead: bool,
    carried: Sequence[LiveState | None],
    hx: States | None,
) -> tuple[Tensor, list[LiveState | None]]:
    """Run all layers. `x` has the rows of the contexts if the LSTM `looks_ahead`, or `ahead`: then
    there are outputs for them, too. Returns the outputs, and what to carry on.
    """
    if lstm.config.reverse:
        return _run_reverse(lstm, x, layout, ahead, hx), [None] * len(carried)
    h_0, c_0 = _initial_states(lstm, carried, hx)
    layers = lstm.layers()
    ends: list[States] = []
    for index, (layer, *initial) in enumerate(zip(layers, h_0, c_0, strict=True)):
        below_top = index + 1 < len(layers)
        x, end = _run_layer(layer, x, layout, ahead or (below_top and lstm.bidirectional), *initial)
        ends.append(end)
    h, c = (torch.stack(states, dim=1) for states in zip(*ends, strict=True))  # [B, layers, …]
    # Copies: a state that waits for its next block holds no other sequence's memory.
    return x, [LiveState(h[i].clone(), c[i].clone()) for i in range(len(carried))]


def _run_reverse(lstm: Lstm, x: Tensor, layout: Layout, ahead: bool, hx: States | None) -> Tensor:
    """Run an LSTM whose only direction begins anew at the end of the contexts."""
    y, _ = lstm.encode(x, layout.all, hx)
    return y if ahead else layout.of_blocks(y)


def _run_layer(
    layer: Layer, x: Tensor, layout: Layout, ahead: bool, h_0: Tensor, c_0: Tensor
) -> tuple[Tensor, States]:
    """Run a layer over the blocks, and if `ahead` on over the contexts. `h_0` is [K, B, P] and
    `c_0` [K, B, H]. Returns the outputs [N, K*P] or [sum of blocks, K*P], and the forward
    direction's states at the blocks' ends.
    """
    is_bidirectional = len(h_0) > 1
    block_x = layout.of_blocks(x) if ahead or is_bidirectional else x
    inputs = [DirectionInput(block_x, layout.block, h_0[0], c_0[0])]
    if is_bidirectional:
        inputs.append(DirectionInput(x, layout.all, h_0[1], c_0[1]))
    forward, *backward = layer.per_direction(inputs)
    assert forward is not None
    y, *states = forward
    end = (states[0], states[1])
    if ahead:
        y = _go_on(layer, x, layout, y, end, len(h_0))
    if backward:
        assert backward[0] is not None
        back = backward[0][0]
        y = torch.cat([y, back if ahead else layout.of_blocks(back)], dim=1)
    return y, end


def _go_on(
    layer: Layer, x: Tensor, layout: Layout, block_y: Tensor, end: States, directions: int
) -> Tensor:
    """Run the forward direction on over the contexts: the outputs of all steps [N, P]."""
    if layout.context is None:
        return block_y
    h, c = (state.index_select(0, layout.owners) for state in end)
    context_x = x.index_select(0, layout.context_rows)
    context = DirectionInput(context_x, layout.context, h, c)
    onward, *_ = layer.per_direction([context, *[None] * (directions - 1)])
    assert onward is not None
    y = block_y.new_empty(len(x), block_y.shape[1])
    y[layout.block_rows] = block_y
    y[layout.context_rows] = onward[0]
    return y


def _initial_states(lstm: Lstm, carried: Sequence[LiveState | None], hx: States | None) -> States:
    """[layers, K, B, P] and [layers, K, B, H]"""
    config, weights = lstm.config, lstm.weight_ih_l0
    known = [(i, state) for i, state in enumerate(carried) if state is not None]
    given = lstm.initial_states(len(carried)) if hx is None else hx
    initial = []
    for kind, width in enumerate((config.state_size, config.hidden_size)):
        shape = (config.num_layers, config.num_directions, len(carried), width)
        states = torch.zeros(shape, dtype=state_type(weights.dtype), device=weights.device)
        if given is not None:
            states.copy_(given[kind].view(shape))
        if known:
            columns = to_device(np.array([i for i, _ in known]), weights.device)
            states[:, 0].index_copy_(1, columns, torch.stack([s[kind] for _, s in known], dim=1))
        initial.append(states)
    return initial[0], initial[1]
