"""Latency-controlled encoding: blocks of sequences that are still going on.

Each is computed with its context, some steps that follow the block. The forward direction of an
LSTM is carried from block to block; the backward one begins, in every layer anew, at the end of the
context (Zhang et al. 2015, arXiv 1510.08983). Windows reach back into the block before, and on into
the context. Pure: what is carried is the caller's to keep.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ..bilstm import States
from ..graph import SequenceEncoder, Step
from ..layers.interface import LayerConfig, RowLayer, WindowConfig, WindowLayer
from ..layers.lstm import Lstm, LstmConfig
from .live_lstm import LiveState, looks_ahead, run_lstm
from .live_rows import Layout, lay_out, run_windows

Carried = Mapping[str, LiveState | Tensor]
"""What a sequence's next block needs, by layer: the forward direction's states of an LSTM, or the
last rows [n, width] that windows reach back to."""


@torch.inference_mode()
def encode_blocks(
    encoder: SequenceEncoder,
    inputs: Sequence[Tensor],
    blocks: Sequence[int],
    contexts: Sequence[int],
    carried: Sequence[Carried | None],
    hx: States | None = None,
    outputs: Collection[str] = ("states",),
) -> tuple[dict[str, Tensor], list[Carried]]:
    """Encode one block of each of B sequences.

    `inputs` are the model's, [N, width] or ids [N]: of each sequence `blocks[i]` steps, at least 1,
    then `contexts[i]` steps that follow them, perhaps none. `carried` is what the block before
    returned, or None at a sequence's beginning. `hx`, [L*K, B, P] and [L*K, B, H], has the forward
    direction's initial states, for sequences of which nothing is carried, and those that the
    backward direction has at the end of a sequence's steps in `inputs`; an LSTM's own if None.
    `outputs` are such that `config.not_live` has nothing against them.

    Returns the outputs of the blocks' steps by name, [sum of blocks, width] or [sum of blocks], and
    what to carry on.
    """
    steps = encoder.plan(frozenset(outputs))
    layout = lay_out(blocks, contexts, encoder.device)
    run = _Run(encoder, layout, looked_ahead(step.config for step in steps), carried, hx)
    run.values |= zip(encoder.config.inputs, inputs, strict=True)
    for step in steps:
        run.step(step)
    found = {name: run.read(encoder.config.outputs[name], ahead=False) for name in outputs}
    return found, list[Carried](run.carried_on)


def looked_ahead(layers: Iterable[LayerConfig]) -> frozenset[str]:
    """The values of which steps of the context are needed, too, of these layers, in order."""
    found: set[str] = set()
    for layer in reversed(list(layers)):
        match layer:
            case LstmConfig():
                looks = looks_ahead(layer)
            case WindowConfig():
                looks = layer.window.right > 0
            case _:
                looks = False
        if looks or layer.name in found:
            found.update(layer.inputs)
    return frozenset(found)


class _Run:
    """One batch of blocks on its way through the graph."""

    def __init__(
        self,
        encoder: SequenceEncoder,
        layout: Layout,
        ahead: frozenset[str],
        carried: Sequence[Carried | None],
        hx: States | None,
    ):
        self.values: dict[str, Tensor] = {}
        self.carried_on: list[dict[str, LiveState | Tensor]] = [{} for _ in carried]
        self._layout = layout
        self._ahead = ahead | encoder.config.inputs.keys()
        self._carried = carried
        self._hx = hx

    def read(self, reference: str, ahead: bool) -> Tensor:
        """The rows of a value: of the blocks and the contexts, or of the blocks alone."""
        rows = self.values[reference]
        if reference in self._ahead and not ahead:
            return self._layout.of_blocks(rows)
        return rows

    def step(self, step: Step) -> None:
        """Compute what a layer gives, and what it carries on."""
        name, module = step.gives[0], step.module
        is_ahead = name in self._ahead
        own = [None if carried is None else carried.get(name) for carried in self._carried]
        carry: Sequence[LiveState | Tensor | None] = ()
        if isinstance(module, Lstm):
            x = self.read(step.reads[0], is_ahead or looks_ahead(module.config))
            states = cast(list[LiveState | None], own)
            rows, carry = run_lstm(module, x, self._layout, is_ahead, states, self._hx)
        elif isinstance(module, WindowLayer):
            x = self.read(step.reads[0], is_ahead or module.window.right > 0)
            before = cast(list[Tensor | None], own)
            rows, carry = run_windows(module, x, self._layout, is_ahead, before)
        else:
            assert isinstance(module, RowLayer)
            rows = module(*(self.read(reference, is_ahead) for reference in step.reads))
        self.values[name] = rows
        for carried, state in zip(self.carried_on, carry, strict=False):
            if state is not None:
                carried[name] = state
        for reference in step.done:
            del self.values[reference]
