"""What the examples say, done: every command and program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bilstm_server.sources import SHIPPED_MODEL
from bilstm_server.testing import server_process

ROOT = Path(__file__).parent.parent
STREAMING = ROOT / "examples" / "streaming"
EXAMPLE = ROOT / "examples" / "japanese_vowels"
# The commands of this environment, as the README's reader has them after `make`.
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(*command: str, cwd: Path = ROOT) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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


@pytest.mark.parametrize("target", ["demo", "test", "serve", "check", "proto", "docs", "bench"])
def test_make_help_lists(target: str) -> None:
    """`make help` lists every target that the documents name."""
    assert re.search(rf"^{target} ", run("make", "help"), re.MULTILINE)
