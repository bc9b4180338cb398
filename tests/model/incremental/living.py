"""Sequences whose steps come one by one, encoded block by block."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bilstm_server.model import SequenceEncoder
from bilstm_server.model.bilstm import States
from bilstm_server.model.incremental.live import Carried, encode_blocks


class Live(NamedTuple):
    """A sequence whose steps come one by one, and how it is cut."""

    inputs: list[Tensor]
    block: int
    lookahead: int
    hx: States | None = None

    @property
    def steps(self) -> int:
        return len(self.inputs[0])

    def cuts(self) -> Iterator[tuple[int, int, int]]:
        """Where each block begins and ends, and its context ends."""
        for start in range(0, self.steps, self.block):
            stop = min(start + self.block, self.steps)
            yield start, stop, min(stop + self.lookahead, self.steps)


def initial_states(encoder: SequenceEncoder, live: Live, is_end: bool) -> States:
    """[L*K, 1, …]: the backward direction's only at the sequence's end."""
    assert encoder.config.state is not None
    rows, *widths, directions = encoder.config.state
    given = live.hx or [torch.zeros(rows, n, dtype=encoder.dtype) for n in widths]
    initial = []
    for states in given:
        own = states.clone()
        if directions > 1 and not is_end:
            own[1::2] = 0
        initial.append(own.unsqueeze(1))
    return initial[0], initial[1]


def encode_live(
    encoder: SequenceEncoder, sequences: Sequence[Live], outputs: Collection[str] = ("states",)
) -> list[dict[str, Tensor]]:
    """Each sequence's outputs, the first blocks of all in one call, then the second …"""
    cuts = [live.cuts() for live in sequences]
    carried: list[Carried | None] = [None] * len(sequences)
    found: list[dict[str, list[Tensor]]] = [{name: [] for name in outputs} for _ in sequences]
    stateful = any(live.hx is not None for live in sequences)
    while True:
        blocks = [(index, cut) for index, own in enumerate(cuts) if (cut := next(own, None))]
        if not blocks:
            return [{name: torch.cat(rows) for name, rows in own.items()} for own in found]
        given = [
            [x[start:end] for x in sequences[index].inputs] for index, (start, _, end) in blocks
        ]
        states = [
            initial_states(encoder, sequences[index], end == sequences[index].steps)
            for index, (_, _, end) in blocks
            if stateful
        ]
        hx = [torch.cat(kind, dim=1) for kind in zip(*states, strict=True)]
        lengths = [stop - start for _, (start, stop, _) in blocks]
        y, carries = encode_blocks(
            encoder,
            [torch.cat(own) for own in zip(*given, strict=True)],
            lengths,
            [end - stop for _, (_, stop, end) in blocks],
            [carried[index] for index, _ in blocks],
            (hx[0], hx[1]) if stateful else None,
            outputs,
        )
        for name, rows in y.items():
            for (index, _), own in zip(blocks, torch.split(rows, lengths), strict=True):
                found[index][name].append(own)
        for (index, _), carry in zip(blocks, carries, strict=True):
            carried[index] = carry
