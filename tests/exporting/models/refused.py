"""Models that can't be served as they are, and the words that say so."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case, ids


class Base(nn.Module):
    """An LSTM, and something that has no layer."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.lstm = nn.LSTM(width, 4, batch_first=True)
        self.fc = nn.Linear(4, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.cell = nn.LSTMCell(6, 4)
        self.conv2d = nn.Conv2d(1, 2, 3, padding=1)
        self.wide = nn.LSTM(12, 4, batch_first=True)
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)
        self.positions = nn.Parameter(torch.randn(2000, 6))
        self.transposed = nn.ConvTranspose1d(4, 4, 2, stride=2)


class Gru(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[0]


class Cell(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.size(0), 4)
        states = []
        for step in range(x.size(1)):
            h, c = self.cell(x[:, step], (h, c))
            states.append(h)
        return self.lstm(x)[0] + torch.stack(states, 1)


class ByHand(Base):
    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        state = torch.zeros(x.size(0), 4)
        for step in range(x.size(1)):
            state = torch.tanh(self.fc(state) + y[:, step])
        return state


class Conv2d(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv2d(x.unsqueeze(1)))
        return self.wide(y.permute(0, 2, 1, 3).flatten(2))[0]


class SelfAttention(Base):
    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.heads(y, y, y)[0]


class Positions(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x + self.positions[: x.size(1)])[0]


class AlwaysDropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(self.lstm(x)[0], 0.5))


class RandomStates(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x, (torch.randn(1, 1, 4), torch.randn(1, 1, 4)))[0]


class Branch(Base):
    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        if y.mean() > 0:
            return self.fc(y)
        return y


class Decoder(Base):
    def forward(self, x: Tensor) -> Tensor:
        y, state = self.lstm(x)
        return self.lstm(F.pad(y, (0, 2)), state)[0]


class Transposed(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(self.lstm(x)[0].transpose(1, 2))


class Embedded(nn.Module):
    """No LSTM at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).mean(1)


class WrongAxis(Base):
    def __init__(self) -> None:
        super().__init__()
        self.steps_first = nn.LSTM(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps_first(x)[0]


class BestStep(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0])[..., 0].argmax(1)


class Speaker(Base):
    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0] + speaker.unsqueeze(1))


class Autocast(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(self.lstm(x)[0]).float()


class ByNumpy(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(torch.from_numpy(np.log1p(np.abs(x.numpy()))))[0]


class Reflected(Base):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 6, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class Fourier(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.stft(x, 10, 5, window=torch.ones(10), center=False, return_complex=True)
        return self.lstm(y.abs().transpose(1, 2))[0]


class Two(Base):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[1][0][-1] - self.lstm(other)[1][0][-1])


def frames() -> Tensor:
    """One sequence of floats."""
    return torch.randn(1, 9, 6)


CASES = [
    Case("gru", Gru, frames, refused="a GRU has no layer"),
    Case("cell", Cell, frames, refused="Put its weights into an nn.LSTM"),
    Case("by_hand", ByHand, frames, refused="once for each step"),
    Case("conv2d", Conv2d, frames, refused="conv2d (Conv2d), line"),
    Case("self_attention", SelfAttention, frames, refused="all pairs of steps"),
    Case("positions", Positions, frames, refused="for each position"),
    Case("always_dropout", AlwaysDropout, frames, refused="random numbers"),
    Case("random_states", RandomStates, frames, refused="random numbers"),
    Case("branch", Branch, frames, refused="`if y.mean() > 0:`"),
    Case("decoder", Decoder, frames, refused="a state that depends on the sequence"),
    Case("transposed", Transposed, frames, refused="transposed convolution"),
    Case("no_lstm", Embedded, lambda: ids(1, 9), refused="runs no LSTM"),
    Case("wrong_axis", WrongAxis, frames, refused="batch_first"),
    Case("speaker", Speaker, lambda: (frames(), torch.ones(1, 4)), refused="the argument speaker"),
    Case("best_step", BestStep, frames, refused="the step with the largest number"),
    Case("autocast", Autocast, frames, refused="computes in torch.bfloat16, as autocast does"),
    Case("by_numpy", ByNumpy, frames, refused="is computed by numpy"),
    Case("reflected", Reflected, frames, refused="padding by reflection"),
    Case("fourier", Fourier, lambda: torch.randn(1, 60), refused="a Fourier transform"),
    Case("two", Two, lambda: (frames(), torch.randn(1, 7, 6)), refused="all of these have one"),
]
