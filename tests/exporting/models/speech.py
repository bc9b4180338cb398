"""Models of frames: convolutions, strides, poolings, stacked frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case


class KeywordSpotter(nn.Module):
    """Convolution, pooling over time, LSTM, soft attention with the middle step's query."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(6, 8, 5, stride=2, padding=2),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(2),
        )
        self.lstm = nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Sequential(nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 3))

    def forward(self, mfcc: Tensor) -> Tensor:
        x = self.conv(mfcc.permute(0, 2, 1))
        y, (h, _) = self.lstm(x.permute(0, 2, 1))
        y = y[:, -1, :]
        return self.fc(y)


class Pyramid(nn.Module):
    """Each layer reads pairs of steps, as Listen, Attend and Spell does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.second = nn.LSTM(16, 3, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.first(x)
        if y.size(1) % 2:
            y = y[:, :-1]
        y = y.contiguous().view(y.size(0), y.size(1) // 2, y.size(2) * 2)
        return F.log_softmax(self.fc(self.second(y)[0]), dim=-1)


class SplicedFrames(nn.Module):
    """Each frame joined with its neighbours, which are zero beyond the edges; then an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(15, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 1, 1))
        spliced = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1)
        return self.lstm(spliced)[0]


class DepthwiseBlocks(nn.Module):
    """Depthwise separable convolutions with residuals, GLU and Swish, before LSTMs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.pointwise = nn.Conv1d(6, 12, 1)
        self.depthwise = nn.Conv1d(6, 6, 5, padding=2, groups=6, bias=False)
        self.bn = nn.BatchNorm1d(6)
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).transpose(1, 2)
        y = F.glu(self.pointwise(y), dim=1)
        y = F.silu(self.bn(self.depthwise(y)))
        return self.fc(self.lstm(x + y.transpose(1, 2))[0])


class Subsampled(nn.Module):
    """Every third frame; the average of pairs of frames; both joined at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool1d(x.transpose(1, 2), 3, stride=1, padding=1).transpose(1, 2)
        return self.fc(self.lstm(x[:, ::3])[0])


class Mask(nn.Module):
    """A mask for a spectrogram of two channels: frames last, compressed and expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 5, bidirectional=True)
        self.fc = nn.Linear(10, 8)

    def forward(self, spectrogram: Tensor) -> Tensor:  # [batch, channels, bins, frames]
        b, c, f, t = spectrogram.shape
        x = torch.log1p(spectrogram).reshape(b, c * f, t).permute(2, 0, 1)
        y, _ = self.lstm(x)
        mask = torch.sigmoid(self.fc(y)).permute(1, 2, 0).view(b, c, f, t)
        return spectrogram * mask


class PerFrameCnn(nn.Module):
    """A small convolution over the bins of each frame by itself, then an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, stride=2)
        self.lstm = nn.LSTM(9, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, t, f = x.shape
        y = F.relu(self.conv(x.view(b * t, 1, f)))
        return self.lstm(y.view(b, t, -1))[0]


class EventDetector(nn.Module):
    """Scores for each frame and for the clip: a weighted mean by the scores themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm1d(6)
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.att, self.cla = nn.Conv1d(8, 3, 1), nn.Conv1d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.bn0(x.transpose(1, 2)).transpose(1, 2)
        y = self.lstm(x)[0].transpose(1, 2)
        norm_att = torch.softmax(torch.clamp(self.att(y), -10, 10), dim=-1)
        cla = torch.sigmoid(self.cla(y))
        clipwise = torch.sum(norm_att * cla, dim=2)
        return {"clipwise_output": clipwise, "framewise_output": cla.transpose(1, 2)}


class Voice(nn.Module):
    """Sixteen-bit samples in frames, energies, one direction: voice activity."""

    window: Tensor
    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(8))
        self.register_buffer("basis", torch.randn(8, 5))
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, frames: Tensor) -> Tensor:
        energy = (frames / 32768 * self.window) @ self.basis
        x = torch.log(energy.pow(2) + 1e-6)
        return torch.sigmoid(self.out(self.lstm(x)[0])).squeeze(-1)


class Recogniser(nn.Module):
    """Scores of a recogniser, and the best class of each frame, as lists."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> dict[str, Any]:
        scores = F.log_softmax(self.fc(self.lstm(x)[0]), 2)
        return {"scores": scores, "best": scores.topk(1, dim=-1)[1].squeeze(-1).tolist()}


def decoded(model: nn.Module, arguments: tuple[Tensor]) -> dict[str, Any]:
    """What is left of the best classes without repeats and blanks (class 0)."""
    best = model(*arguments)["best"][0]
    return {"labels": [c for i, c in enumerate(best) if c != 0 and (i == 0 or c != best[i - 1])]}


def transcript(model: nn.Module, arguments: tuple[Tensor]) -> dict[str, Any]:
    """The same with torch's own function for repeats."""
    emission = model(*arguments)["scores"][0]
    indices = torch.unique_consecutive(torch.argmax(emission, dim=-1), dim=-1)
    return {"labels": torch.tensor([i for i in indices.tolist() if i != 0])}


CASES = [
    Case("recogniser", Recogniser, lambda: torch.randn(1, 9, 6)),
    Case("decoded", Recogniser, lambda: torch.randn(1, 40, 6), {"outputs": decoded}),
    Case("transcript", Recogniser, lambda: torch.randn(1, 40, 6), {"outputs": transcript}),
    Case("keyword_spotter", KeywordSpotter, lambda: torch.randn(1, 17, 6)),
    Case("pyramid", Pyramid, lambda: torch.randn(1, 12, 5)),
    Case("spliced_frames", SplicedFrames, lambda: torch.randn(1, 9, 5)),
    Case("depthwise_blocks", DepthwiseBlocks, lambda: torch.randn(1, 9, 6)),
    Case("subsampled", Subsampled, lambda: torch.randn(1, 9, 6)),
    Case("spectrogram_mask", Mask, lambda: torch.rand(1, 2, 4, 9)),
    Case("per_frame_cnn", PerFrameCnn, lambda: torch.randn(1, 9, 8)),
    Case("event_detector", EventDetector, lambda: torch.randn(1, 9, 6)),
    Case("voice", Voice, lambda: torch.randn(1, 9, 8) * 3000),
]
