"""`--chain` says the whole chain: what it names wrongly is refused with what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import ModelConfig, import_checkpoint
from tests.model.storage.importing.judges import Modules, lstm


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    module = Modules(
        words=nn.Embedding(9, 3),
        lstm=lstm(3, 4),
        norm=nn.LayerNorm(8),
        attention=nn.Linear(8, 8),
        fc=nn.Linear(8, 5),
    )
    path = tmp_path / "model.pt"
    torch.save({f"net.{name}": tensor for name, tensor in module.state_dict().items()}, path)
    return path


def imported(checkpoint: Path, chain: str, **said: object) -> ModelConfig:
    return import_checkpoint(
        checkpoint,
        checkpoint.parent / "out",
        chain=chain,
        overwrite=True,
        **said,  # type: ignore[arg-type]
    )


def computed(config: ModelConfig, output: str) -> list[str]:
    """The types of the layers that an output depends on, in order."""
    return [layer.model_dump()["type"] for layer in config.needed([output])]


def test_order(checkpoint: Path) -> None:
    """Layers compute in the order of the chain, with the names of the file or without what all
    have in common."""
    config = imported(checkpoint, "words, lstm, norm, mean, attention, tanh, fc")
    assert computed(config, "logits") == [
        *("embedding", "lstm", "layer_norm", "mean", "linear", "activation", "linear")
    ]
    same = imported(checkpoint, "net.words,net.lstm,net.norm,mean,net.attention,tanh,net.fc")
    assert same == config
    assert config.outputs["states"] == "lstm"


ENDS = {
    "softmax": {"logits": "fc", "probabilities": "softmax"},
    "log_softmax": {"logits": "fc", "log_probabilities": "log_softmax"},
    "sigmoid": {"logits": "fc", "probabilities": "sigmoid"},
    "tanh": {"logits": "fc", "tanh": "tanh"},
    "normalize": {"logits": "fc", "embedding": "normalize"},
    "argmax": {"logits": "fc", "labels": "argmax"},
}


@pytest.mark.parametrize("end", ENDS)
def test_ends(end: str, checkpoint: Path) -> None:
    """What the chain ends with is an output beside the logits."""
    config = imported(checkpoint, f"words, lstm, attention, norm, last, fc, {end}")
    own = {k: v for k, v in config.outputs.items() if k not in ("states", "final", "mean", "max")}
    assert own == ENDS[end]


def test_labels(checkpoint: Path) -> None:
    """Names of classes name the columns of the logits, and the labels, which come with them."""
    config = imported(checkpoint, "words,lstm,norm,attention,fc", labels=list("abcde"))
    assert config.labels == {"logits": tuple("abcde"), "labels": tuple("abcde")}
    assert computed(config, "labels")[-1] == "argmax"


WRONG = {
    "words, lstm, norm, attention, clf": "'clf' is no module of the file and no word of it; it "
    "has: words, lstm, norm, attention, fc",
    "words, lstm, norm, attention, norm, fc": "norm is in it twice",
    "words, lstm, norm, fc": "--chain leaves out net.attention; 2 more tensors would be left out",
    "words, norm, attention, fc": "--chain must name an LSTM of the file",
    "words, residual, lstm, norm, attention, fc": "residual must stand behind an LSTM",
    "words, lstm, norm, attention+fc": "'attention+fc' joins other things than poolings",
    "mean, words, lstm, norm, attention, fc": "'mean' is no module of the file",
    "words, lstm, features:3, norm, attention, fc": "'features:3' is no module of the file",
    "words+features:2, lstm, norm, attention, fc": "net.lstm.weight_ih_l0 is [16, 3], expected",
    "words, lstm, norm, final, attention, fc": "final is of an LSTM's own output: it must stand",
    "words, lstm, mean, norm, attention, last, fc": "reads a row for each step, got 8 floats for",
    "words, lstm, norm, attention, residual, fc": "reads values of one width, got [3, 8]",
    "": "'' is no module of the file",
}


@pytest.mark.parametrize("chain", WRONG)
def test_wrong(chain: str, checkpoint: Path) -> None:
    """A chain that can't be is refused with what is wrong in it."""
    with pytest.raises(ModelError) as raised:
        imported(checkpoint, chain)
    assert WRONG[chain] in str(raised.value)


def test_other_flags(checkpoint: Path) -> None:
    """What the chain says is said by no other flag, too."""
    for said in (
        {"pooling": "last"},
        {"per_step": True},
        {"lstm_prefix": "lstm."},
        {"head": False},
    ):
        with pytest.raises(ModelError, match="--chain says all of the chain: pass no other flag"):
            imported(checkpoint, "words, lstm, norm, attention, fc", **said)


def test_proposal(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The chain that an error proposes is one that the command takes, once words are put in."""
    out = ("--out", str(checkpoint.parent / "out"))
    assert cli.main(["import", str(checkpoint), *out]) == 1
    proposed = capsys.readouterr().err.split("--chain '")[1].split("'")[0]
    assert "POOLING" in proposed
    assert "ACTIVATION" in proposed
    chain = proposed.replace("POOLING", "mean").replace("ACTIVATION", "relu")
    assert cli.main(["import", str(checkpoint), *out, "--chain", chain]) == 0


def test_proposal_with_a_crf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A CRF is in the chain that is proposed, and nothing is pooled before it."""
    scores = {"transitions": (5, 5), "start_transitions": (5,), "end_transitions": (5,)}
    tagger = nn.ModuleDict(
        {
            "embedding": nn.Embedding(50, 6),
            "lstm": nn.LSTM(10, 8, bidirectional=True),
            "fc": nn.Linear(16, 5),
            "crf": nn.ParameterDict({name: torch.zeros(size) for name, size in scores.items()}),
        }
    )
    torch.save(tagger.state_dict(), tmp_path / "tagger.pt")
    arguments = ["import", str(tmp_path / "tagger.pt"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    proposed = capsys.readouterr().err.split("--chain '")[1].split("'")[0]
    assert proposed == "embedding+features:4, lstm, fc, crf"
    assert cli.main([*arguments, "--chain", proposed]) == 0
