"""What nn.LSTM and the operator are given: the same weights and inputs, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from benchmarks.workload import MEAN_LENGTH
from benchmarks.workload import lengths as draw_lengths
from bilstm_server.model import BiLSTM

States = tuple[Tensor, Tensor]
Results = tuple[Tensor, Tensor, Tensor]  # y [N, K*P], h_n and c_n
Form = Literal["ragged", "time first", "batch first", "packed", "packed sorted", "unbatched"]
Call = Callable[[], tuple[Tensor | PackedSequence, States]]


class Case(NamedTuple):
    """One use of nn.LSTM."""

    name: str
    form: Form  # of the input
    arguments: dict[str, Any]  # nn.LSTM's, but for the sizes; bidirectional unless they say not
    is_projected: bool = False  # to half the hidden size
    has_states: bool = False  # initial ones


CASES = (
    Case("1 layer", "ragged", {}),
    Case("3 layers", "ragged", {"num_layers": 3}),
    Case("no bias", "ragged", {"bias": False}),
    Case("projection", "ragged", {}, is_projected=True),
    Case("one direction", "ragged", {"bidirectional": False}),
    Case("initial states", "ragged", {"num_layers": 2}, has_states=True),
    Case("dense, time first", "time first", {}),
    Case("dense, batch first", "batch first", {"batch_first": True}),
    Case("packed, sorted", "packed sorted", {}),
    Case("packed, not sorted", "packed", {}, has_states=True),
    Case("unbatched", "unbatched", {}),
    Case("dropout, same mask", "unbatched", {"num_layers": 3, "dropout": 0.4}),
)


class Drawn(NamedTuple):
    """A case's modules and numbers; in each of them the weights are the same."""

    case: Case
    judge: nn.LSTM
    ours: BiLSTM
    x: Tensor  # [N, D], one sequence after the other
    lengths: list[int]  # [B]
    hx: States | None

    def to(self, target: torch.dtype | torch.device) -> Drawn:
        """The same numbers in another type or place, in modules of their own."""
        judge = self.ours.to_torch().to(target)
        hx = self.hx and (self.hx[0].to(target), self.hx[1].to(target))
        return Drawn(
            self.case, judge, BiLSTM.from_torch(judge), self.x.to(target), self.lengths, hx
        )


def draw(case: Case, hidden: int, sequences: int) -> Drawn:
    """The case in float64: width and hidden size equal, lengths log-normal."""
    torch.manual_seed(0)
    arguments = {"bidirectional": True, **case.arguments}
    if case.is_projected:
        arguments["proj_size"] = hidden // 2
    judge = nn.LSTM(hidden, hidden, **arguments, dtype=torch.float64)
    judge.train("dropout" in arguments)
    ours = BiLSTM.from_torch(judge)
    lengths = _lengths(case.form, sequences)
    x = torch.randn(sum(lengths), hidden, dtype=torch.float64)
    rows = ours.num_layers * ours.num_directions
    h_0 = torch.randn(rows, len(lengths), ours.output_size, dtype=torch.float64)
    c_0 = torch.randn(rows, len(lengths), hidden, dtype=torch.float64)
    return Drawn(case, judge, ours, x, lengths, (h_0, c_0) if case.has_states else None)


def _lengths(form: Form, sequences: int) -> list[int]:
    if form == "unbatched":
        return [MEAN_LENGTH]
    if form in ("time first", "batch first"):
        return [MEAN_LENGTH] * sequences
    lengths: list[int] = draw_lengths(np.random.default_rng(0), sequences).tolist()
    return sorted(lengths, reverse=True) if form == "packed sorted" else lengths


def prepare(lstm: nn.LSTM | BiLSTM, drawn: Drawn) -> Call:
    """What is timed: the module's call alone, its input packed or laid out already."""
    x, lengths, hx, form = drawn.x, drawn.lengths, drawn.hx, drawn.case.form
    if form == "ragged" and isinstance(lstm, BiLSTM):
        return lambda: lstm.forward_ragged(x, lengths, hx)
    given: Tensor | PackedSequence = x
    if form in ("time first", "batch first"):
        given = x.view(len(lengths), lengths[0], -1)
        given = given if form == "batch first" else given.transpose(0, 1).contiguous()
    elif form != "unbatched":
        sequences = list(torch.split(x, lengths))
        given = pack_sequence(sequences, enforce_sorted=form == "packed sorted")
    return lambda: lstm(given, hx)


def run(lstm: nn.LSTM | BiLSTM, drawn: Drawn) -> Results:
    """Its results, the output's rows in x's order."""
    torch.manual_seed(1)  # of dropout's mask
    y, (h_n, c_n) = prepare(lstm, drawn)()
    if isinstance(y, PackedSequence):
        return torch.cat(unpack_sequence(y)), h_n, c_n
    if drawn.case.form == "time first":
        y = y.transpose(0, 1)
    return y.flatten(0, -2), h_n, c_n
