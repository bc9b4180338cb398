"""Modules that an operator is a part of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from bilstm_server.model import BiLSTM


class Tagger(nn.Module):
    """A module with layers before and after."""

    def __init__(self, lstm: nn.Module):
        super().__init__()
        self.before, self.lstm, self.after = nn.Linear(3, 3), lstm, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.lstm(self.before(x))[0])
        return y


class Ragged(Tagger):
    """The like, which calls `forward_ragged`: of one sequence [T, 3], or of several."""

    lstm: BiLSTM

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        steps = [x.shape[0]] if lengths is None else lengths
        y: Tensor = self.after(self.lstm.forward_ragged(self.before(x), steps)[0])
        return y


AROUND: dict[str, Callable[[BiLSTM], nn.Module]] = {
    "alone": lambda lstm: lstm,
    "nested": lambda lstm: nn.Sequential(Tagger(lstm)).eval(),
    "ragged": lambda lstm: Ragged(lstm).eval(),
}
