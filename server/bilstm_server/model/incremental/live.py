"""Latency-controlled encoding: blocks of sequences that are still going on.

The forward direction is carried from block to block; the backward one begins, in every layer anew,
at the end of the context, some steps that follow the block (Zhang et al. 2015, arXiv 1510.08983).
Pure: what is carried is the caller's to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..bilstm import States
from ..encoder import SequenceEncoder
from ..kernels import DirectionInput, Layer, RaggedBatch, state_type, to_device


class LiveState(NamedTuple):
    """What the forward direction carries to a sequence's next block."""

    h: Tensor  # [layers, P], of the kernels' `state_type`
    c: Tensor  # [layers, H]


class _Layout(NamedTuple):
    """Where the steps of B sequences lie in N rows; only some of the sequences have a context."""

    all: RaggedBatch  # each sequence's block, and its context
    block: RaggedBatch
    block_rows: Tensor
    context: RaggedBatch | None
    context_rows: Tensor
    ahead: Tensor  # the sequences that have a context


@torch.inference_mode()
def encode_blocks(
    encoder: SequenceEncoder,
    x: Tensor,
    blocks: Sequence[int],
    contexts: Sequence[int],
    carried: Sequence[LiveState | None],
    hx: States | None = None,
) -> tuple[Tensor, list[LiveState]]:
    """Encode one block of each of B sequences.

    `x` is [N, input_size] or token ids [N]: of each sequence `blocks[i]` steps, at least 1, then
    `contexts[i]` steps that follow them, perhaps none. `carried` is what the block before returned,
    or None at a sequence's beginning. `hx`, as `BiLSTM.forward_ragged` takes it, has the forward
    direction's initial states, for sequences of which nothing is carried, and those that the
    backward direction has at the end of a sequence's steps in `x`: other than zero only where the
    sequence itself ends there.

    Returns the blocks' states [sum of blocks, K*P], and what to carry on.
    """
    layout = _lay_out(blocks, contexts, encoder.device)
    h_0, c_0 = _initial_states(encoder, carried, hx)
    x = encoder.embed(x)
    layers = encoder.layers()
    ends: list[States] = []
    for layer, *initial in zip(layers[:-1], h_0, c_0, strict=False):
        x, end = _run_lower(layer, x, layout, *initial)
        ends.append(end)
    y, end = _run_top(layers[-1], x, layout, h_0[-1], c_0[-1])
    ends.append(end)
    h, c = (torch.stack(states, dim=1) for states in zip(*ends, strict=True))  # [B, layers, …]
    # Copies: a state that waits for its next block holds no other sequence's memory.
    return y, [LiveState(h[i].clone(), c[i].clone()) for i in range(len(blocks))]


def _run_lower(
    layer: Layer, x: Tensor, layout: _Layout, h_0: Tensor, c_0: Tensor
) -> tuple[Tensor, States]:
    """Run a layer whose outputs another one reads: [N, D] -> every step's outputs [N, K*P], and the
    forward direction's states at the blocks' ends. `h_0` is [K, B, P] and `c_0` [K, B, H].
    """
    block_y, backward_y, (h, c) = _run_blocks(layer, x, layout, h_0, c_0)
    forward_y = block_y.new_empty(len(x), block_y.shape[1])
    forward_y[layout.block_rows] = block_y
    if layout.context is not None:
        states = h[layout.ahead], c[layout.ahead]
        context = DirectionInput(x[layout.context_rows], layout.context, *states)
        onward = layer.per_direction([context, *[None] * (len(h_0) - 1)])[0]
        assert onward is not None
        forward_y[layout.context_rows] = onward[0]
    return _join(forward_y, backward_y), (h, c)


def _run_top(
    layer: Layer, x: Tensor, layout: _Layout, h_0: Tensor, c_0: Tensor
) -> tuple[Tensor, States]:
    """Run the top layer: as `_run_lower`, but only for the blocks' outputs."""
    block_y, backward_y, end = _run_blocks(layer, x, layout, h_0, c_0)
    return _join(block_y, None if backward_y is None else backward_y[layout.block_rows]), end


def _run_blocks(
    layer: Layer, x: Tensor, layout: _Layout, h_0: Tensor, c_0: Tensor
) -> tuple[Tensor, Tensor | None, States]:
    """Run the forward direction over the blocks, and the backward one over the contexts and on over
    the blocks. Returns outputs [sum of blocks, P] and [N, P], and forward's final states.
    """
    inputs = [
        DirectionInput(x[layout.block_rows], layout.block, h_0[0], c_0[0]),
        *(DirectionInput(x, layout.all, h, c) for h, c in zip(h_0[1:], c_0[1:], strict=True)),
    ]
    forward, *backward = layer.per_direction(inputs)
    assert forward is not None
    y, h_n, c_n = forward
    return y, backward[0][0] if backward and backward[0] else None, (h_n, c_n)


def _join(forward: Tensor, backward: Tensor | None) -> Tensor:
    return forward if backward is None else torch.cat([forward, backward], dim=1)


def _lay_out(blocks: Sequence[int], contexts: Sequence[int], device: torch.device) -> _Layout:
    ahead = np.flatnonzero(contexts)
    lengths = np.stack([blocks, contexts], axis=1)  # [B, 2]
    in_block = np.tile([True, False], len(lengths)).repeat(lengths.flatten())
    block_rows, context_rows, owners = (
        to_device(index, device)
        for index in (np.flatnonzero(in_block), np.flatnonzero(~in_block), ahead)
    )
    return _Layout(
        RaggedBatch(lengths.sum(axis=1), device),
        RaggedBatch(lengths[:, 0], device),
        block_rows,
        RaggedBatch(lengths[ahead, 1], device) if len(ahead) else None,
        context_rows,
        owners,
    )


def _initial_states(
    encoder: SequenceEncoder, carried: Sequence[LiveState | None], hx: States | None
) -> States:
    """[layers, K, B, P] and [layers, K, B, H]"""
    config, dtype = encoder.config, state_type(encoder.dtype)
    known = [(i, state) for i, state in enumerate(carried) if state is not None]
    initial = []
    for kind, width in enumerate((config.state_size, config.hidden_size)):
        shape = (config.num_layers, config.num_directions, len(carried), width)
        states = torch.zeros(shape, dtype=dtype, device=encoder.device)
        if hx is not None:
            states.copy_(hx[kind].view(shape))
        if known:
            columns = to_device(np.array([i for i, _ in known]), encoder.device)
            states[:, 0].index_copy_(1, columns, torch.stack([s[kind] for _, s in known], dim=1))
        initial.append(states)
    return initial[0], initial[1]
