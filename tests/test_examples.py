"""What the README and the examples say, done: every command, program and table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilstm_client import Client
from bilstm_server.sources import SHIPPED_MODEL
from bilstm_server.testing import server_process

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
STREAMING = ROOT / "examples" / "streaming"
EXAMPLE = ROOT / "examples" / "japanese_vowels"
# The commands of this environment, as the README's reader has them after `make`.
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(*command: str, cwd: Path = ROOT) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_make_demo() -> None:
    """`make demo` checks accuracy and equality, reports, and stops by itself."""
    printed = run("make", "demo")
    for line in ("accuracy", "equality", "throughput", "latency", "coalescing"):
        assert re.search(rf"^{line} ", printed, re.MULTILINE), printed


def test_training_reaches_the_accuracy_and_repeats(tmp_path: Path) -> None:
    """train.py reaches 97 % on the test set, and the same seed gives the same model."""
    printed = [
        run(sys.executable, str(EXAMPLE / "train.py"), "--out", str(tmp_path / name))
        for name in ("a", "b")
    ]
    accuracy = re.search(r"test accuracy ([\d.]+)%", printed[0])
    assert accuracy is not None
    assert float(accuracy[1]) >= 97
    assert (tmp_path / "a" / "config.json").read_text() == (
        SHIPPED_MODEL.folder / "config.json"
    ).read_text()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    assert len(weights[0]) < 1_000_000


def test_classify_names_the_speaker() -> None:
    """classify.py answers from a served model."""
    with server_process() as server:
        printed = run(sys.executable, str(EXAMPLE / "classify.py"), server.target)
    assert printed.startswith("speaker ")


def test_a_folder(tmp_path: Path) -> None:
    """folder.py writes the states of each file, and tells of one that is refused."""
    for name, shape in (("long", (5_000, 12)), ("short", (3, 12)), ("wide", (3, 13))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.float32))
    with server_process() as server:
        printed = run(sys.executable, str(STREAMING / "folder.py"), str(tmp_path), server.target)
    long, short, wide = printed.splitlines()
    assert (long, short) == ("long.npy: 5000 steps", "short.npy: 3 steps")
    assert "INVALID_ARGUMENT" in wide
    assert np.load(tmp_path / "long.states.npy").shape == (5_000, 128)
    assert not (tmp_path / "wide.states.npy").exists()


def test_a_generator_without_end() -> None:
    """endless.py leaves its loop, and ends."""
    with server_process() as server:
        printed = run(sys.executable, str(STREAMING / "endless.py"), server.target)
    assert len(printed.splitlines()) == 10


def test_a_live_stream() -> None:
    """live.py has a result for each block, the last one exact."""
    with server_process() as server:
        printed = run(sys.executable, str(STREAMING / "live.py"), server.target)
    *blocks, last = printed.splitlines()
    assert len(blocks) == 9
    assert all(line.endswith("forward exact True, reverse exact False") for line in blocks)
    assert last == "steps 180 to 200: forward exact True, reverse exact True"


@pytest.mark.parametrize("name", ["endless", "folder", "live"])
def test_help_of_the_streaming_examples(name: str) -> None:
    """--help says what a program shows and what may be typed, without a server."""
    printed = run(sys.executable, str(STREAMING / f"{name}.py"), "--help")
    assert "[HOST:PORT]" in printed
    assert f"python examples/streaming/{name}.py" in printed


def test_readme_python() -> None:
    """The README's Python runs as it stands, but for the address."""
    client, stream, operator = blocks("python")
    names: dict[str, Any] = {}
    with server_process() as server:
        exec(client.replace("localhost:50051", server.target), names)
        assert names["encoding"].states.shape == (7, 128)
        exec(stream.replace("localhost:50051", server.target), names)
    assert isinstance(names["client"], Client)
    assert names["last"].shape == (128,)
    exec(operator, names)
    assert names["y"].shape == (10, 128)


def test_readme_shell(tmp_path: Path) -> None:
    """The README's commands for files and for a model of one's own run as they stand, but for
    the address."""
    _, _, files, streamed, own = blocks("sh")
    (tmp_path / "recordings").mkdir()
    np.save(tmp_path / "recordings" / "one.npy", np.zeros((3, 12), np.float32))
    np.savez(tmp_path / "utterances.npz", first=np.zeros((3, 12), np.float32))
    with server_process() as server:
        for line in (files + streamed).strip().splitlines():
            run(*line.split(), "--server", server.target, cwd=tmp_path)
    with np.load(tmp_path / "utterances.encoded.npz") as encoded:
        assert encoded["first.logits"].shape == (9,)
    assert np.load(tmp_path / "recordings" / "one.states.npy").shape == (3, 128)
    module = torch.nn.Module()
    module.lstm = torch.nn.LSTM(4, 5, bidirectional=True)
    module.fc = torch.nn.Linear(10, 2)
    torch.save(module.state_dict(), tmp_path / "classifier.pt")
    imported, served = own.strip().splitlines()
    run(*imported.split(), cwd=tmp_path)
    flags = served.replace("models/", f"{tmp_path}/models/").split()[2:]
    with server_process(*flags) as server, Client(server.target) as client:
        assert client.get_model().num_classes == 2
        assert server.stop() == 0


@pytest.mark.parametrize("target", ["demo", "test", "serve", "check", "proto", "docs", "bench"])
def test_make_help_lists(target: str) -> None:
    """`make help` lists every target that the documents name."""
    assert re.search(rf"^{target} ", run("make", "help"), re.MULTILINE)
