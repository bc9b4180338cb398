"""`bilstm-server import --expect` writes a model only if it gives what its owner's module gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_server.cli import main as cli

Examples = dict[str, np.ndarray[Any, Any]]
Run = Callable[..., tuple[int, str, str]]

LENGTHS = (1, 4, 70)


class Tagger(nn.Module):
    """Ids and floats of each step; the head is at each step, and tanh stands before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(9, 3)
        self.lstm = nn.LSTM(5, 4, bidirectional=True)
        self.hidden = nn.Linear(8, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(torch.cat([self.words(ids), features], 1))
        return self.out(torch.tanh(self.hidden(y)))  # type: ignore[no-any-return]


def examples() -> Examples:
    generator = torch.Generator().manual_seed(1)
    module = Tagger()
    arrays: Examples = {}
    for number, steps in enumerate(LENGTHS):
        ids = torch.randint(9, (steps,), generator=generator)
        features = torch.randn(steps, 2, generator=generator)
        with torch.no_grad():
            logits = module(ids, features)
        arrays |= {
            f"inputs.tokens.{number}": ids.numpy(),
            f"inputs.features.{number}": features.double().numpy(),
            f"outputs.logits.{number}": logits.numpy(),
        }
    return arrays


CHAIN = "words+features:2, lstm, hidden, tanh, out"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Imports the tagger with examples; gives the exit code and what it said."""

    def run(arrays: Examples, chain: str = CHAIN) -> tuple[int, str, str]:
        torch.save(Tagger().state_dict(), tmp_path / "tagger.pt")
        np.savez(tmp_path / "expect.npz", **arrays)  # type: ignore[arg-type]
        command = ["import", str(tmp_path / "tagger.pt"), "--out", str(tmp_path / "out")]
        code = cli.main([*command, "--chain", chain, "--expect", str(tmp_path / "expect.npz")])
        assert (tmp_path / "out").exists() == (code == 0)
        captured = capsys.readouterr()
        assert captured.err.count("\n") == code
        return code, captured.out, captured.err

    return run


def test_proven(run: Run) -> None:
    """A model that gives the same is written, and the largest difference is said."""
    code, said, _ = run(examples())
    assert code == 0
    assert "proven by 3 sequences: the largest difference is " in said
    assert "not proven" not in said
    assert float(said.split("the largest difference is ")[1].split()[0]) < 1e-5


@pytest.mark.parametrize("chain", [CHAIN.replace("tanh", "relu"), CHAIN.replace("tanh, ", "")])
def test_other_numbers(chain: str, run: Run) -> None:
    """A model with another activation than the module's is not written; the table says how far off
    it is."""
    code, said, error = run(examples(), chain)
    assert code == 1
    assert "alone" in said
    assert "expect.npz: the model gives other outputs, by " in error


def without(key: str) -> Examples:
    return {name: array for name, array in examples().items() if name != key}


WRONG: dict[str, tuple[Callable[[], Examples], str]] = {
    "an input is missing": (
        lambda: without("inputs.features.1"),
        "inputs.*.1 are of tokens, expected: tokens, features",
    ),
    "an output is missing": (
        lambda: without("outputs.logits.2"),
        "outputs.*.2 are of nothing, expected: logits",
    ),
    "no outputs": (
        lambda: {k: v for k, v in examples().items() if not k.startswith("outputs")},
        "holds no examples of inputs and outputs; expected arrays named",
    ),
    "no name": (
        lambda: without("inputs.features.0") | {"inputs.0": np.ones((1, 2), np.float32)},
        "inputs.0 must name which it is of: tokens, features",
    ),
    "another output": (
        lambda: {k.replace("logits", "scores"): v for k, v in examples().items()},
        "the model has no output 'scores'; it has: states, final, mean, max, logits",
    ),
    "other names": (
        lambda: examples() | {"x0": np.ones(3)},
        "x0 is no name of an example's array; expected arrays named inputs.NAME.0",
    ),
    "nothing": (dict, "holds no examples of inputs and outputs; expected arrays named"),
    "a batch": (
        lambda: examples() | {"outputs.logits.0": np.ones((1, 1, 2), np.float32)},
        "logits of a sequence of 1 steps is [1, 2], the module's is [1, 1, 2]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_examples(case: str, run: Run) -> None:
    """Examples that can't be compared are refused with what is wrong with them."""
    make, words = WRONG[case]
    code, _, error = run(make())
    assert code == 1
    assert words in error


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text"])
def test_no_npz(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no .npz is refused in one line."""
    torch.save(Tagger().state_dict(), tmp_path / "tagger.pt")
    (tmp_path / "x.npz").write_bytes(content)
    command = ["import", str(tmp_path / "tagger.pt"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--chain", CHAIN, "--expect", str(tmp_path / "x.npz")]) == 1
    assert "x.npz: is no readable .npz of numbers" in capsys.readouterr().err
