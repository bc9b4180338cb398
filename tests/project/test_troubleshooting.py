"""docs/troubleshooting.md has the words that the programs print, so that they are found there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_client import Client, EncoderError
from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint, load_model
from bilstm_server.testing import server_process

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
