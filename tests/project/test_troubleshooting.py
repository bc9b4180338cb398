"""docs/troubleshooting.md has the words that the programs print, so that they are found there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_client import Client, EncoderError, Live, NotRequested
from bilstm_server import export
from bilstm_server.errors import ModelError
from bilstm_server.model import (
    ModelConfig,
    SequenceEncoder,
    import_checkpoint,
    load_model,
    save_model,
)
from bilstm_server.testing import server_process
from tests.exporting.models import refused
from tests.exporting.models.case import Case

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
SEQUENCE = np.zeros((3, 12), np.float32)


def quotations() -> Iterator[list[str]]:
    """What each section's title quotes: pieces, where it leaves something out."""
    for title in re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        for quoted in re.findall(r"`([^`]+)`", title):
            yield [piece.strip() for piece in quoted.split("…")]


def check_is_listed(message: str) -> None:
    """A title quotes enough of the message to tell it from others."""
    found = [quoted for quoted in quotations() if all(piece in message for piece in quoted)]
    assert any(len("".join(quoted)) > 20 for quoted in found), message


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with server_process() as server:
        yield server.target


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.encode(np.zeros((2, 3, 12))),
        lambda client: client.encode(np.zeros(3, np.int64)),
        lambda client: client.encode([[1.0] * 12, [1.0] * 11]),
        lambda client: client.encode(np.zeros((100_000, 12))),
        lambda client: client.encode(SEQUENCE, model="classifier"),
        lambda client: client.encode(SEQUENCE, timeout_seconds=1e-4),
    ],
)
def test_of_calls(target: str, call: Callable[[Client], object]) -> None:
    """What a call can be refused for."""
    with Client(target) as client, pytest.raises((EncoderError, TypeError)) as raised:
        call(client)
    kind = "" if isinstance(raised.value, EncoderError) else f"{type(raised.value).__name__}: "
    check_is_listed(f"{kind}{raised.value}")


def test_of_connections() -> None:
    """A server that is not there, and a target that is none."""
    with Client("localhost:1", timeout_seconds=0.1) as client:
        with pytest.raises(EncoderError) as raised:
            client.encode(SEQUENCE)
        check_is_listed(str(raised.value))
    with pytest.raises(ValueError, match="target") as wrong:
        Client("http://localhost:50051")
    check_is_listed(str(wrong.value))


def test_of_a_model_without_a_head(tmp_path: Path) -> None:
    """Logits of a model that has none."""
    lstm = nn.LSTM(12, 3).state_dict()
    torch.save({f"lstm.{name}": tensor for name, tensor in lstm.items()}, tmp_path / "lstm.pt")
    import_checkpoint(tmp_path / "lstm.pt", tmp_path / "model")
    with (
        server_process("--model", f"plain={tmp_path / 'model'}") as server,
        Client(server.target) as client,
        pytest.raises(EncoderError) as raised,
    ):
        client.encode(SEQUENCE, outputs=["logits"])
    check_is_listed(str(raised.value))


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        ([], {"BILSTM_MAX_BATCH_TOKNES": "4"}),
        (["--max-batch-tokens", "4"], {}),
        ([], {"BILSTM_PORT": "tcp://10.0.0.1:50051"}),
        (["--host", "0.0.0.0", "--log-format", "json"], {}),
    ],
)
def test_of_settings(flags: list[str], variables: dict[str, str]) -> None:
    """What ends the start of a server."""
    command = [sys.executable, "-m", "bilstm_server", "serve", *flags]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 1
    check_is_listed(done.stderr)


def test_of_a_folder_that_is_no_model() -> None:
    """A path that holds no model."""
    with pytest.raises(ModelError) as raised:
        load_model(Path("/models/classifier"))
    check_is_listed(str(raised.value))


IDS = np.arange(1, 10)
FEATURES = np.zeros((9, 4), np.float32)
BLOCKS = Live(block_steps=2, lookahead_steps=1)


def model_folder(folder: Path, config: dict[str, Any]) -> Path:
    """A model of two inputs and some layers, of any numbers."""
    save_model(SequenceEncoder(ModelConfig.model_validate(config)), folder)
    return folder


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves `tagger`, of two inputs and a convolution, and `words`, of ids and a CRF."""
    folder = tmp_path_factory.mktemp("models")
    embedding = {"name": "embedding", "type": "embedding", "inputs": ["tokens"], "width": 6}
    lstm = {"name": "lstm", "type": "lstm", "hidden_size": 5}
    scores = {"name": "scores", "type": "linear", "width": 3}
    crf = {"name": "crf", "type": "crf"}
    joined = {"name": "joined", "type": "concat", "inputs": ["embedding", "features"]}
    conv = {"name": "conv", "type": "conv1d", "width": 8, "kernel": 5}
    inputs = {"tokens": {"ids": 50, "padding_id": 0}, "features": {"width": 4}}
    outputs = {"logits": "scores", "labels": "crf"}
    tagger = {"inputs": inputs, "layers": [embedding, joined, conv, lstm, scores, crf]}
    words = {"inputs": {"tokens": {"ids": 50}}, "layers": [embedding, lstm, scores, crf]}
    sources = [
        f"{name}={model_folder(folder / name, config | {'outputs': outputs})}"
        for name, config in (("tagger", tagger), ("words", words))
    ]
    with server_process("--model", sources[0], "--model", sources[1]) as server:
        yield server.target


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.encode(IDS, outputs="labels"),
        lambda client: client.encode({"words": IDS, "features": FEATURES}, outputs="labels"),
        lambda client: client.encode({"tokens": IDS[1:], "features": FEATURES}, outputs="labels"),
        lambda client: client.encode({"tokens": IDS * 0, "features": FEATURES}, outputs="labels"),
        lambda client: client.encode({"tokens": IDS + 60, "features": FEATURES}, outputs="labels"),
        lambda client: client.encode(
            {"tokens": IDS[:2], "features": FEATURES[:2]}, outputs="labels"
        ),
        lambda client: client.encode({"tokens": IDS, "features": FEATURES}),
        lambda client: client.encode(IDS, model="words", outputs="labels").logits,
        lambda client: client.encode(IDS[None], model="words", outputs="labels"),
        lambda client: list(
            client.encode_chunks([iter([IDS])], model="words", outputs="labels", live=BLOCKS)
        ),
    ],
)
def test_of_inputs_and_outputs(taggers: str, call: Callable[[Client], object]) -> None:
    """What a call can be refused for by a model of layers."""
    with Client(taggers) as client, pytest.raises((EncoderError, NotRequested)) as raised:
        call(client)
    kind = "" if isinstance(raised.value, EncoderError) else f"{type(raised.value).__name__}: "
    check_is_listed(f"{kind}{raised.value}")


REFUSED = ("conv2d", "cell", "wrong_axis", "branch", "no_lstm")


@pytest.mark.parametrize("case", [case for case in refused.CASES if case.name in REFUSED])
def test_of_exports(case: Case, tmp_path: Path) -> None:
    """Modules that are refused."""
    example = case.example()
    with pytest.raises(ModelError) as raised:
        export(case.make(), tmp_path / "model", example=example)
    check_is_listed(str(raised.value))


class Classifier(nn.Module):
    def __init__(self, name: str = "lstm", **others: nn.Module) -> None:
        super().__init__()
        self.add_module(name, nn.LSTM(4, 5, bidirectional=True))
        self.fc = nn.Linear(10, 2)
        for other, module in others.items():
            self.add_module(other, module)


@pytest.mark.parametrize(
    "saved",
    [
        Classifier().state_dict(),
        Classifier(value=nn.Linear(10, 1)).state_dict(),
        Classifier(conv=nn.Conv1d(3, 4, 3)).state_dict(),
        Classifier().state_dict() | {"scale": torch.ones(3)},
        Classifier(),
    ],
)
def test_of_imports(saved: object, tmp_path: Path) -> None:
    """Checkpoints that are refused."""
    torch.save(saved, tmp_path / "classifier.pt")
    with pytest.raises(ModelError) as raised:
        import_checkpoint(tmp_path / "classifier.pt", tmp_path / "model")
    check_is_listed(str(raised.value).replace(f"{__name__}.", "__main__."))
