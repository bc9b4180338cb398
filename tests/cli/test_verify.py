"""`bilstm-server verify` says how far a folder is from its module, and ends with 1 if too far."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bilstm_server import export
from bilstm_server.cli import main as cli
from tests.support.commands import run
from tests.support.owners_code import owned, owners_folder

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that was exported from the owner's code, for copies of it."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch, owners_folder(folder, patch):
        module, example = owned("with_example")()
        export(module, "model", example=example, outputs=["logits", None])
    return folder / "model"


@pytest.fixture
def owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path) -> Iterator[Path]:
    """The current folder, with the owner's code, and the model that was exported from it."""
    shutil.copytree(exported, tmp_path / "model")
    with owners_folder(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def verify(owners: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Verifies the model by the flags; gives the exit code and what it said."""

    def verify(*flags: str) -> tuple[int, str, str]:
        code = cli.main(["verify", "model", *flags])
        captured = capsys.readouterr()
        assert captured.err.count("\n") == code
        return code, captured.out, captured.err

    return verify


def test_holds(owners: Path) -> None:
    """The command as it is installed; what the folder lacks is said to be not compared."""
    done = run("bilstm-server", "verify", "model", "--module", "tagger:make")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "not compared, since the folder has none: states" in done.stdout
    assert "proven by 9 sequences of 1 to 133 steps: the largest difference is" in done.stdout


def test_other_weights(verify: Command) -> None:
    """A module with other weights is told apart, and by how much."""
    code, said, error = verify("--module", "tagger:other")
    assert code == 1
    assert "alone" in said
    assert "model: gives other outputs than expected: 9 sequences of 1 to 133 steps: the" in error


def test_weights_of_a_checkpoint(verify: Command) -> None:
    """Weights are loaded from a checkpoint, into a module that has others."""
    torch.save(owned("make")().state_dict(), "trained.pt")
    assert verify("--module", "tagger:other", "--weights", "trained.pt")[0] == 0


def test_other_names(verify: Command) -> None:
    """Inputs belong together by their order, where their names are others."""
    config = json.loads(Path("model/config.json").read_text())
    config["inputs"] = {"words": config["inputs"].pop("tokens")}
    config["layers"][0]["inputs"] = ["words"]
    Path("model/config.json").write_text(json.dumps(config))
    assert verify("--module", "tagger:make")[0] == 0


def test_output_of_the_folder_alone(verify: Command) -> None:
    """An output that the module does not return is not compared, which is said."""
    config = json.loads(Path("model/config.json").read_text())
    config["outputs"]["states"] = "lstm"
    Path("model/config.json").write_text(json.dumps(config))
    code, said, _ = verify("--module", "tagger:make", "--outputs", "logits,_")
    assert code == 0
    assert "not compared, since the module returns none: states" in said


def test_imported(owners: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that was made of a checkpoint alone is held against the module that it is of."""
    torch.save(owned("other")().state_dict(), "trained.pt")
    assert cli.main(["import", "trained.pt", "--per-step", "--out", "imported"]) == 0
    module = ["--module", "tagger:make", "--weights", "trained.pt"]
    capsys.readouterr()
    assert cli.main(["verify", "imported", *module]) == 0
    said = capsys.readouterr().out
    assert {"logits", "states"} <= {line.split()[0] for line in said.splitlines()}
    assert "not compared, since the module returns none: final, mean, max" in said


def save_examples(path: str, factor: float) -> None:
    arrays = {}
    for number, steps in enumerate((1, 5, 70)):
        ids = torch.arange(steps) % 19 + 1
        with torch.no_grad():
            logits = owned("make")().eval()(ids[None], torch.tensor([steps]))[0][0]
        arrays[f"inputs.{number}"] = ids.numpy()
        arrays[f"outputs.logits.{number}"] = logits.numpy() * factor
    np.savez(path, **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_by_examples(factor: float, verify: Command) -> None:
    """Examples in a file are enough: no code is run."""
    save_examples("expect.npz", factor)
    Path("tagger.py").unlink()
    code, said, error = verify("--expect", "expect.npz")
    assert code == (factor != 1.0)
    assert "proven by 3 sequences of 1 to 70 steps" in said or "3 sequences of 1 to 70" in error


def test_examples_of_some_outputs(verify: Command) -> None:
    """Outputs that the file has no examples of are named."""
    config = json.loads(Path("model/config.json").read_text())
    config["outputs"]["states"] = "lstm"
    Path("model/config.json").write_text(json.dumps(config))
    save_examples("expect.npz", 1.0)
    assert "not compared, since expect.npz has none: states" in verify("--expect", "expect.npz")[1]


REFUSED = {
    ("--module", "tagger:Nested"): "no example can be made up that Nested.forward(batch) takes",
    ("--module", "tagger:make", "--outputs", "a,b"): "model: no output of its has the name of one "
    "of the module's: it has logits, the module a, b; name them with --outputs",
    (
        "--module",
        "tagger:make",
        "--outputs",
        "_,logits",
    ): "model: logits is 5 floats for each step, the module's is 12 floats for each step",
    ("--expect", "absent.npz"): "absent.npz: no such file",
    (
        "--expect",
        "absent.npz",
        "--weights",
        "x.pt",
    ): "--weights is for --module, which is not given",
}


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_refused(flags: tuple[str, ...], verify: Command) -> None:
    """What can't be compared is refused in one line."""
    code, _, error = verify(*flags)
    assert code == 1
    assert REFUSED[flags] in error


def test_another_model(verify: Command) -> None:
    """A module with other inputs is not what the folder was made from."""
    module = torch.nn.LSTM(3, 2, batch_first=True)
    export(module, "model", example=torch.randn(1, 5, 3), outputs=["states", None], overwrite=True)
    code, _, error = verify("--module", "tagger:make")
    assert code == 1
    assert (
        "(3 floats for each step), the module tokens (ids below 20 for each step): it wa" in error
    )


def test_no_folder(owners: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is refused before code is run."""
    assert cli.main(["verify", "absent", "--module", "tagger:raises"]) == 1
    assert "absent/config.json: no such file" in capsys.readouterr().err


def test_one_judge(owners: Path) -> None:
    """Either a module or examples judge."""
    for flags in ([], ["--module", "tagger:make", "--expect", "x.npz"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["verify", "model", *flags])
        assert ended.value.code == 2
