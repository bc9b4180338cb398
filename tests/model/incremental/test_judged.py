"""A tagger in slices and live is what its torch module gives for the sequence alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilstm_server.model import ModelConfig, SequenceEncoder
from bilstm_server.model.kernels import NAMES
from tests.model.incremental.encoders import frozen
from tests.model.incremental.living import Live, encode_live
from tests.model.incremental.slicing import finish, run_of
from tests.support.lstms import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 300

CONFIG = ModelConfig.model_validate(
    {
        "inputs": {"tokens": {"ids": 20}, "features": {"width": 3}},
        "layers": [
            {"name": "embedding", "type": "embedding", "inputs": ["tokens"], "width": 5},
            {"name": "joined", "type": "concat", "inputs": ["embedding", "features"]},
            {
                "name": "conv",
                "type": "conv1d",
                "width": 7,
                "kernel": 5,
                "dilation": 2,
                "padding": "same",
            },
            {"name": "active", "type": "activation", "function": "relu"},
            {"name": "lower", "type": "lstm", "hidden_size": 6, "num_layers": 2},
            {"name": "gated", "type": "concat", "inputs": ["lower", "active"]},
            {
                "name": "upper",
                "type": "lstm",
                "hidden_size": 4,
                "bidirectional": False,
                "reverse": True,
            },
            {"name": "linear", "type": "linear", "width": 5},
            {"name": "labels", "type": "argmax"},
            {"name": "scores", "type": "linear", "inputs": ["upper"], "width": 1},
            {"name": "attention", "type": "attention", "inputs": ["lower", "scores"]},
            {"name": "max", "type": "max", "inputs": ["lower"]},
            {"name": "both", "type": "concat", "inputs": ["attention", "max"]},
            {"name": "head", "type": "linear", "width": 2},
        ],
        "outputs": {
            "emissions": "linear",
            "labels": "labels",
            "weights": "attention.weights",
            "logits": "head",
        },
    }
)


class Tagger(nn.Module):
    """The same in torch, of one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 5)
        self.conv = nn.Conv1d(8, 7, 5, dilation=2, padding=4)
        self.lower = nn.LSTM(7, 6, 2, bidirectional=True)
        self.upper = nn.LSTM(19, 4)
        self.linear = nn.Linear(4, 5)
        self.scores = nn.Linear(4, 1)
        self.head = nn.Linear(24, 2)

    def forward(self, tokens: Tensor, features: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.embedding(tokens), features], dim=1)
        active = F.relu(self.conv(joined.T.unsqueeze(0))[0].T)
        lower, _ = self.lower(active)
        upper = self.upper(torch.cat([lower, active], dim=1).flip(0))[0].flip(0)
        emissions = self.linear(upper)
        weights = self.scores(upper).softmax(0)
        pooled = torch.cat([(weights * lower).sum(0), lower.max(0).values])
        return {
            "emissions": emissions,
            "labels": emissions.argmax(1),
            "weights": weights,
            "logits": self.head(pooled).unsqueeze(0),
        }


def pair(kernel: str, dtype: torch.dtype) -> tuple[SequenceEncoder, Tagger, list[Tensor]]:
    encoder = frozen(CONFIG, kernel, dtype)
    judge = Tagger().requires_grad_(False)
    judge.load_state_dict(encoder.state_dict())
    torch.manual_seed(1)
    features = torch.randn(STEPS, 3, dtype=torch.float64).to(dtype)
    return encoder, judge.double(), [torch.randint(20, (STEPS,)), features]


every_kernel = pytest.mark.parametrize("kernel", [name for name in NAMES if name != "gpu"])
every_dtype = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str
)


def assert_near(actual: dict[str, Tensor], exact: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == exact.keys()
    for name, rows in actual.items():
        assert_close(rows.to(exact[name].dtype), exact[name], tolerance)


def expected(judge: Tagger, inputs: list[Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = judge(inputs[0], inputs[1].double())
    return found


@every_kernel
@every_dtype
def test_slices(kernel: str, dtype: torch.dtype, tolerance: float) -> None:
    """In slices, whatever stages they need."""
    encoder, judge, inputs = pair(kernel, dtype)
    run = run_of(encoder, inputs, CONFIG.outputs)
    finish([run], [64, 128])
    assert_near(run.encodings(), expected(judge, inputs), tolerance)


@every_kernel
@every_dtype
def test_live(kernel: str, dtype: torch.dtype, tolerance: float) -> None:
    """Live, where the context reaches the end."""
    encoder, judge, inputs = pair(kernel, dtype)
    live = Live(inputs, 100, STEPS)
    names = ("emissions", "labels")
    (actual,) = encode_live(encoder, [live], names)
    exact = expected(judge, inputs)
    assert_near(actual, {name: exact[name] for name in names}, tolerance)
