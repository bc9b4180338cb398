"""`bilstm-server export` makes a model folder of code and a checkpoint, or says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from bilstm_client import Client
from bilstm_server.cli import main as cli
from tests.support.commands import run
from tests.support.owners_code import owned, owners_folder
from tests.support.servers import RunningServer, settings

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the owner's code."""
    with owners_folder(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def export(owners: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exports by the flags; gives the exit code and what it said."""

    def export(factory: str, *flags: str) -> tuple[int, str, str]:
        code = cli.main(["export", factory, "--out", "out", *flags])
        assert Path("out").exists() == (code == 0)
        captured = capsys.readouterr()
        assert captured.err.count("\n") == code
        return code, captured.out, captured.err

    return export


def save_trained(path: str) -> torch.nn.Module:
    """A checkpoint of a tagger with other weights than the code gives."""
    module: torch.nn.Module = owned("other")().eval()
    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"epoch": 3, "model": state}, path)
    return module


def test_served(owners: Path) -> None:
    """The command as it is installed; what it wrote gives on a server what the module gives, and it
    prints the layers, the proof, and how to serve."""
    module = save_trained("trained.pt")
    done = run(
        "bilstm-server",
        *("export", "tagger:make", "--weights", "trained.pt", "--out", "my models"),
        *("--outputs", "logits,_", "--labels", "a,b,c,d,e", "--model-version", "4"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "took the tensors under 'model'"
    assert lines[1] == "took the tensors whose names begin with module."
    assert lines[2] == "an example was made up, of 97 steps: tokens (ids below 20)"
    assert "layer      type                reads      gives" in lines
    assert "lstm       lstm hidden_size=6  embedding  12 floats for each step" in lines
    assert "output  alone    together  streamed" in lines
    assert lines[-2].startswith(
        "proven by 9 sequences of 1 to 133 steps: the largest difference is"
    )
    assert lines[-1] == "serve it with: bilstm-server serve --model 'my models=my models'"
    ids = np.array([3, 1, 4, 1, 5])
    with torch.no_grad():
        expected = module(torch.from_numpy(ids)[None], torch.tensor([5]))[0][0]
    server = RunningServer(settings(model=[("tagger", Path("my models"))], device="cpu"))
    with closing(server), Client(server.target) as client:
        encoding = client.encode(ids, outputs="logits")
        model = client.get_model()
    np.testing.assert_allclose(encoding.logits, expected.numpy(), atol=1e-5)
    assert model.version == "4"
    assert tuple(model.labels) == ("a", "b", "c", "d", "e")


def test_without_weights(export: Command) -> None:
    """What the factory gives is taken, and said."""
    _, said, _ = export("tagger:make")
    assert said.startswith("no --weights: these are what tagger:make gives\n")


def test_example_of_factory(export: Command) -> None:
    """An example that the factory gives is taken."""
    _, said, _ = export("tagger:with_example")
    assert "made up" not in said


def test_example_in_file(export: Command) -> None:
    """An example in a file is taken, where none can be made up."""
    np.savez("example.npz", ids=np.arange(9)[None] % 5)
    code, said, _ = export("tagger:Nested", "--example", "example.npz")
    assert code == 0
    assert "made up" not in said


def test_outputs_by_function(export: Command) -> None:
    """A function of the owner's says what is served."""
    code, said, _ = export("tagger:make", "--outputs", "tagger:labels_of")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines() if "e-0" in line or "e+00" in line][
        :2
    ] == ["labels", "logits"]


REFUSED = {
    ("tagger:raises",): 'no such data set (line 47 of tagger.py: `raise RuntimeError("no such',
    (
        "tagger:larger",
        "--weights",
        "trained.pt",
    ): "module.lstm.weight_ih_l0 is [24, 8], the module's"
    " is [28, 8]; make it with the sizes that it was trained with",
    ("tagger:make", "--weights", "absent.pt"): "absent.pt: no such file",
    (
        "tagger:make",
        "--weights",
        "trained.pt",
        "--key",
        "x",
    ): "--key 'x' is no dictionary of tensors",
    ("tagger:make", "--example", "absent.npz"): "absent.npz: no such file",
    ("tagger:Failing",): "no example can be made up that Failing.forward(tokens) takes: give one",
    ("tagger:Recurrent",): "a GRU has no layer",
    (
        "tagger:Recurrent",
        "--outputs",
        "a,b",
    ): "expected a name or None for each of 1 results, got 2",
    ("tagger:make", "--outputs", "tagger:absent"): "tagger:absent: tagger has no absent",
    ("tagger:make", "--labels", "a,b"): "labels: no output has 2 classes",
    ("tagger:make", "--model-version", "0"): "the model's version must be 1 or more, got 0",
}


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_refused(flags: tuple[str, ...], export: Command, owners: Path) -> None:
    """What can't be exported is refused in one line, and nothing is written."""
    save_trained("trained.pt")
    code, _, error = export(*flags)
    assert code == 1
    assert REFUSED[flags] in error


def test_example_that_fails(export: Command) -> None:
    """An example that the module does not take is refused with the line that fails on it."""
    np.save("example.npy", np.ones((1, 5), np.float32))
    code, _, error = export("tagger:Recurrent", "--example", "example.npy")
    assert code == 1
    assert "example: Recurrent fails on it: RuntimeError: " in error
    assert "of tagger.py: `return self.gru(self.lstm(self.embedding(tokens))[0])[0]`" in error


def test_folder_with_a_model(owners: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model is not overwritten unless it is said to be, and that before any code is run."""
    assert cli.main(["export", "tagger:make", "--out", "out"]) == 0
    assert cli.main(["export", "tagger:raises", "--out", "out"]) == 1
    assert "out: holds a model already; choose another folder" in capsys.readouterr().err
    assert cli.main(["export", "tagger:make", "--out", "out", "--overwrite"]) == 0
