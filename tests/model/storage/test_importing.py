"""From a checkpoint to a served model with the same numbers, and every file that can't be one.

Owns the claims about model folders and `bilstm-server import`. Torch's own modules are the
judges; what is served is asked for over the wire.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import structlog
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bilstm_client import Client
from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import (
    ModelConfig,
    Pooling,
    SequenceEncoder,
    import_checkpoint,
    load_model,
    save_model,
)
from tests.support.servers import RunningServer, settings, start_error, write_model

COMMAND = Path(sys.executable).parent / "bilstm-server"
LENGTHS = (4, 1, 7)
VOCABULARY = 11
StateDict = dict[str, Tensor]

# -- what model owners have -------------------------------------------------------------------


class Classifier(nn.Module):
    """The usual one: zero initial states, and a linear layer over the output at the last step."""

    def __init__(
        self,
        input_size: int = 3,
        hidden_size: int = 4,
        num_layers: int = 2,
        num_classes: int = 5,
        vocabulary: int = 0,
        **options: Any,
    ):
        super().__init__()
        options = {"bidirectional": True} | options
        self.embedding = nn.Embedding(vocabulary, input_size) if vocabulary else None
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True, **options)
        self.directions = 2 if options["bidirectional"] else 1
        self.width = options.get("proj_size", 0) or hidden_size
        self.fc = nn.Linear(self.directions * self.width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D], or token ids [B, T] -> [B, classes]"""
        return self.fc(self.outputs(x)[:, -1, :])  # type: ignore[no-any-return]

    def outputs(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        rows = self.lstm.num_layers * self.directions
        h0 = torch.zeros(rows, x.size(0), self.width, dtype=x.dtype)
        c0 = torch.zeros(rows, x.size(0), self.lstm.hidden_size, dtype=x.dtype)
        out, _ = self.lstm(x, (h0, c0))
        return out  # type: ignore[no-any-return]


def classifier(seed: int = 0, **options: Any) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(**options).eval()


def inputs(model: Classifier, seed: int = 1) -> list[Tensor]:
    """Sequences of LENGTHS for the model: floats, or token ids."""
    generator = torch.Generator().manual_seed(seed)
    if model.embedding is not None:
        return [torch.randint(VOCABULARY, (n,), generator=generator) for n in LENGTHS]
    return [torch.randn(n, model.lstm.input_size, generator=generator) for n in LENGTHS]


def write(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """The tensors as a checkpoint, in the format that the file's name says."""
    if path.suffix == ".safetensors":
        own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        safetensors.torch.save_file(own, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RunningServer]]:
    """Servers to close after the last test, all at once: each takes a while."""
    running: list[RunningServer] = []
    yield running
    with ThreadPoolExecutor() as pool:
        list(pool.map(RunningServer.close, running))


@pytest.fixture
def serve_imported(servers: list[RunningServer], tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Imports a checkpoint by the command, serves the folder, and gives a client of it."""
    with ExitStack() as clients:

        def serve(
            tensors: Mapping[str, Tensor],
            *flags: str,
            name: str = "model.pt",
            pooling: str | None = "last",
        ) -> Client:
            checkpoint, folder = write(tensors, tmp_path / name), tmp_path / "imported"
            flags += () if pooling is None else ("--pooling", pooling)
            assert cli.main(["import", str(checkpoint), "--out", str(folder), *flags]) == 0
            servers.append(RunningServer(settings(model=[("imported", folder)])))
            return clients.enter_context(Client(servers[-1].target))

        yield serve


def served_logits(client: Client, sequences: list[Tensor]) -> list[Any]:
    return [e.logits for e in client.encode_batch(sequences, outputs=["logits"])]


def assert_same_logits(client: Client, model: Classifier) -> None:
    """Each served sequence has the logits that the model itself gives it alone."""
    sequences = inputs(model)
    with torch.inference_mode():
        expected = [model(x.unsqueeze(0))[0] for x in sequences]
    for served, own in zip(served_logits(client, sequences), expected, strict=True):
        np.testing.assert_allclose(served, own.float().numpy(), rtol=0, atol=1e-5)


# -- a model is served unchanged --------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "embedding": {"vocabulary": VOCABULARY},
    "projection": {"proj_size": 2},
    "unidirectional": {"bidirectional": False},
    "without bias": {"bias": False},
    "one layer": {"num_layers": 1},
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_served_logits_are_the_models_own(
    variant: str, suffix: str, serve_imported: Callable[..., Client]
) -> None:
    """A trained classifier, imported and served, gives the logits that it gives itself."""
    model = classifier(**VARIANTS[variant])
    assert_same_logits(serve_imported(model.state_dict(), name=f"model{suffix}"), model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_dtypes(
    dtype: torch.dtype, suffix: str, serve_imported: Callable[..., Client]
) -> None:
    """A checkpoint in another floating type is served in float32, with its weights' values."""
    model = classifier().to(dtype)
    client = serve_imported(model.state_dict(), name=f"model{suffix}")
    assert_same_logits(client, model.float())


@pytest.mark.parametrize("prefix", ["module.", "encoder.rnn.", "_orig_mod."])
def test_other_prefixes(prefix: str, serve_imported: Callable[..., Client]) -> None:
    """The prefixes say where in a checkpoint the LSTM, the head and the embedding are."""
    model = classifier(vocabulary=VOCABULARY)
    names = {"lstm.": f"{prefix}lstm.", "fc.": f"{prefix}clf.", "embedding.": f"{prefix}words."}
    renamed = {
        next(new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)): t
        for key, t in model.state_dict().items()
    }
    flags = ("--lstm-prefix", "--head-prefix", "--embedding-prefix")
    pairs = zip(flags, names.values(), strict=True)
    client = serve_imported(renamed, *(part for pair in pairs for part in pair))
    assert_same_logits(client, model)


def test_bare_lstm(serve_imported: Callable[..., Client]) -> None:
    """nn.LSTM's own state_dict is served under the empty prefix, without a head."""
    model = classifier()
    client = serve_imported(model.lstm.state_dict(), "--lstm-prefix", "", pooling=None)
    for x in inputs(model):
        with torch.inference_mode():
            expected = model.outputs(x.unsqueeze(0))[0]
        states = client.encode(x).states
        assert states is not None
        np.testing.assert_allclose(states, expected, rtol=0, atol=1e-5)
    assert client.get_model().num_classes == 0


def test_empty_lstm_prefix_beside_a_head(serve_imported: Callable[..., Client]) -> None:
    """Under the empty prefix the LSTM's tensors are those that no other prefix claims."""
    model = classifier()
    head = {f"fc.{name}": tensor for name, tensor in model.fc.state_dict().items()}
    client = serve_imported(model.lstm.state_dict() | head, "--lstm-prefix", "")
    assert_same_logits(client, model)


@pytest.mark.parametrize("pooling", Pooling)
def test_poolings(pooling: Pooling, serve_imported: Callable[..., Client]) -> None:
    """The head reads the outputs as --pooling says."""
    model = classifier()
    client = serve_imported(model.state_dict(), pooling=pooling)
    sequences = inputs(model)
    with torch.inference_mode():
        for x, served in zip(sequences, served_logits(client, sequences), strict=True):
            out = model.outputs(x.unsqueeze(0))[0]
            width = model.width
            pooled = {
                Pooling.LAST: out[-1],
                Pooling.FINAL: torch.cat([out[-1, :width], out[0, width:]]),
                Pooling.MEAN: out.mean(0),
                Pooling.MAX: out.max(0).values,
            }[pooling]
            np.testing.assert_allclose(served, model.fc(pooled), rtol=0, atol=1e-5)


def test_labels_and_version(serve_imported: Callable[..., Client]) -> None:
    """Labels and the version given at import are what the server says of the model."""
    flags = ("--labels", "a,b,c,d,é", "--model-version", "7")
    described = serve_imported(classifier().state_dict(), *flags).get_model()
    assert described.labels == ("a", "b", "c", "d", "é")
    assert described.version == "7"
    assert described.num_classes == 5


def test_ignored_tensors(serve_imported: Callable[..., Client]) -> None:
    """With --ignore-unused, counters are left out, and the head stays."""
    model = classifier()
    others = {"optimizer.step": torch.tensor(3)}
    assert_same_logits(serve_imported(model.state_dict() | others, "--ignore-unused"), model)


def test_tied_weights(serve_imported: Callable[..., Client]) -> None:
    """Tensors of a checkpoint may share their memory, as tied weights do."""
    model = classifier(num_layers=1)
    model.lstm.weight_hh_l0_reverse = model.lstm.weight_hh_l0
    assert_same_logits(serve_imported(model.state_dict()), model)


def test_views_of_one_buffer(serve_imported: Callable[..., Client]) -> None:
    """Tensors may be views of one flat buffer, as cuDNN lays nn.LSTM's weights out."""
    model = classifier()
    weights = model.state_dict()
    flat = torch.cat([tensor.flatten() for tensor in weights.values()])
    pieces = torch.split(flat, [tensor.numel() for tensor in weights.values()])
    views = {k: piece.view_as(t) for (k, t), piece in zip(weights.items(), pieces, strict=True)}
    assert_same_logits(serve_imported(views), model)


def test_import_command(tmp_path: Path) -> None:
    """The installed command writes the folder, says how to serve it, and exits with 0."""
    checkpoint = write(classifier().state_dict(), tmp_path / "model.pt")
    folder = tmp_path / "served"
    run = subprocess.run(
        [COMMAND, "import", checkpoint, "--out", folder, "--pooling", "last"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert f"--model served={folder}" in run.stdout
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_how_to_serve_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that `import` prints can be pasted, with any folder, also the one it is in."""
    path = write(classifier().state_dict(), tmp_path / "model.pt")
    here = tmp_path / "my models"
    here.mkdir()
    monkeypatch.chdir(here)
    for out, source in ((".", "my models=."), ("a b/it's", "it's=a b/it's")):
        assert cli.main(["import", str(path), "--out", out, "--pooling", "last"]) == 0
        command = capsys.readouterr().out.splitlines()[-1].removeprefix("serve it with: ")
        assert shlex.split(command) == ["bilstm-server", "serve", "--model", source]


def test_import_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`import --help` says what each pooling is."""
    with pytest.raises(SystemExit):
        cli.main(["import", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "last: output[:, -1]" in said
    assert "nothing but dropout in between" in said
    assert "final: forward's last step and reverse's first" in said
    assert "torch.cat((h_n[-2], h_n[-1]), 1)" in said


def test_unknown_pooling(capsys: pytest.CaptureFixture[str]) -> None:
    """A pooling that there is not is answered with those that there are."""
    with pytest.raises(SystemExit):
        cli.main(["import", "model.pt", "--out", "out", "--pooling", "median"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--pooling" in said
    assert all(repr(pooling.value) in said for pooling in Pooling)


# -- model folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"bias": False, "bidirectional": False, "proj_size": 2},
        {"embedding": {"num_embeddings": 9}, "head": {"num_classes": 2, "bias": False}},
        {"head": {"num_classes": 2, "pooling": "max"}, "labels": ["no", "yes"], "version": 3},
    ],
)
def test_save_and_load(sizes: dict[str, object], tmp_path: Path) -> None:
    """A model that is saved and loaded has the same config and the same weights."""
    config = ModelConfig.model_validate({"input_size": 3, "hidden_size": 4} | sizes)
    encoder = SequenceEncoder(config)
    save_model(encoder, tmp_path / "a" / "new" / "folder")
    loaded = load_model(tmp_path / "a" / "new" / "folder")
    assert loaded.config == config
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_load_dtype(tmp_path: Path) -> None:
    """A model is loaded in the dtype that is asked for."""
    folder = write_model(tmp_path / "model")
    loaded = load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_save_over_a_model(tmp_path: Path) -> None:
    """A model is saved over another one; nothing else is left in the folder."""
    folder = write_model(tmp_path / "model")
    write_model(folder, seed=1, num_layers=1)
    assert load_model(folder).config.num_layers == 1
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("last", [0, 1])
def test_interrupted_write(
    last: int, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves no config beside weights that it is not of, and no other file."""
    folder = tmp_path / "model"
    if overwrite:
        write_model(folder)
    replaced: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        if len(replaced) == last:
            raise OSError(28, "No space left on device")
        replaced.append(target)
        source.rename(target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ModelError, match="No space left on device"):
        write_model(folder, seed=1)
    assert [path.name for path in replaced] == ["model.safetensors"][:last]
    names = {path.name for path in folder.iterdir()}
    written = {path.name for path in replaced}
    assert names == written | ({"config.json", "model.safetensors"} if overwrite else set())
    if overwrite:
        load_model(folder)


# -- files that are no checkpoint: one line, exit code 1 --------------------------------------


class Bomb:
    """Unpickling it makes a file: what a hostile checkpoint would do."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.marker), "w")


def bytes_of(saved: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


def good_pt() -> bytes:
    return bytes_of(classifier().state_dict())


def good_safetensors() -> bytes:
    return safetensors.torch.save(classifier().state_dict())


def noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


UNREADABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty .pt": ("model.pt", lambda: b""),
    "empty .safetensors": ("model.safetensors", lambda: b""),
    "truncated .pt": ("model.pt", lambda: good_pt()[:-100]),
    "half a .pt": ("model.pt", lambda: good_pt()[: len(good_pt()) // 2]),
    "truncated .safetensors": ("model.safetensors", lambda: good_safetensors()[:-1]),
    "header of .safetensors only": ("model.safetensors", lambda: good_safetensors()[:20]),
    "noise .pt": ("model.pt", lambda: noise(4000)),
    "noise .safetensors": ("model.safetensors", lambda: noise(4000)),
    "noise without a suffix": ("model", lambda: noise(4000)),
    "text": ("model.pt", lambda: b"version https://git-lfs.github.com/spec/v1\n"),
    "pickled module": ("model.pt", lambda: bytes_of(nn.LSTM(3, 4))),
    "pickled classifier": ("model.pt", lambda: bytes_of(classifier())),
    "a list": ("model.pt", lambda: bytes_of([torch.ones(2)])),
    "a tensor": ("model.pt", lambda: bytes_of(torch.ones(2))),
    "nested": ("model.pt", lambda: bytes_of({"model": classifier().state_dict(), "epoch": 3})),
    "names are numbers": ("model.pt", lambda: bytes_of({1: torch.ones(2)})),
    "nothing in it": ("model.pt", lambda: bytes_of({})),
    "a pickle": ("model.pt", lambda: pickle.dumps({"lstm.weight_ih_l0": [1.0]})),
    "safetensors as .pt": ("model.pt", good_safetensors),
    ".pt as safetensors": ("model.safetensors", good_pt),
}

Failing = Callable[..., str]


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Iterator[Failing]:
    """Runs a command that must fail; returns what the one line on standard error says."""

    def run(*arguments: object) -> str:
        assert cli.main([str(argument) for argument in arguments]) == 1
        captured = capsys.readouterr()
        if arguments[0] == "serve":
            return start_error(captured.err)
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("bilstm-server: ")
        return lines[0].removeprefix("bilstm-server: ")

    yield run
    structlog.reset_defaults()  # `serve` sends the log to this test's standard error


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_file(case: str, tmp_path: Path, failing: Failing) -> None:
    """A file that holds no state_dict is refused in one line that names it, and writes nothing."""
    name, content = UNREADABLE[case]
    path = tmp_path / name
    path.write_bytes(content())
    assert str(path) in failing("import", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


NEAR = {  # what is said where it is clear what to do
    "text": "is no .pt file",
    "safetensors as .pt": "is no .pt file",
    "noise without a suffix": "is no .pt file",
    "nested": "torch.save(torch.load('model.pt', map_location='cpu')['model'], 'weights.pt')",
    "a list": "holds a list instead of a state_dict",
}


@pytest.mark.parametrize("case", NEAR)
def test_what_to_do(case: str, tmp_path: Path, failing: Failing) -> None:
    """What a file holds instead of a state_dict is said, and how to make one."""
    name, content = UNREADABLE[case]
    path = tmp_path / name
    path.write_bytes(content())
    assert NEAR[case] in failing("import", path, "--out", tmp_path / "out")


def test_advice_for_a_nested_checkpoint(
    tmp_path: Path, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice for a checkpoint inside of a dict, followed to the letter, gives an importable."""
    monkeypatch.chdir(tmp_path)
    nested = {"epoch": 3, "state_dict": classifier().state_dict(), "optimizer": {"state": {}}}
    torch.save(nested, "model.pt")
    said = failing("import", "model.pt", "--out", "out")
    assert "holds a dict of tensors under 'state_dict'" in said
    exec(said.split("save just that: ")[1], {"torch": torch})
    assert import_checkpoint(Path("weights.pt"), Path("out"), pooling=Pooling.LAST).head


def test_missing_file(tmp_path: Path, failing: Failing) -> None:
    """A checkpoint that is not there is named."""
    said = failing("import", tmp_path / "none.pt", "--out", tmp_path / "out")
    assert said == f"{tmp_path / 'none.pt'}: no such file"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_nothing_is_executed(suffix: str, legacy: bool, tmp_path: Path, failing: Failing) -> None:
    """A pickle that would run code on loading is refused, and runs none."""
    marker = tmp_path / "executed"
    path = tmp_path / f"model{suffix}"
    bomb = classifier().state_dict() | {"x": Bomb(marker)}
    torch.save(bomb, path, _use_new_zipfile_serialization=not legacy)
    failing("import", path, "--out", tmp_path / "out")
    path.write_bytes(pickle.dumps(bomb))
    failing("import", path, "--out", tmp_path / "out")
    assert not marker.exists()


def changed(**tensors: Tensor | None) -> StateDict:
    """The usual checkpoint with some tensors replaced (dots as `__`), or left out if None."""
    weights: StateDict = dict(classifier().state_dict())
    for name, tensor in tensors.items():
        weights.pop(name.replace("__", "."), None)
        if tensor is not None:
            weights[name.replace("__", ".")] = tensor
    return weights


# Checkpoint, flags, and what the line must name.
UNFIT: dict[str, tuple[Callable[[], StateDict], tuple[str, ...], str]] = {
    "wrong LSTM prefix": (changed, ("--lstm-prefix", "rnn."), "--lstm-prefix"),
    "wrong head prefix": (changed, ("--head-prefix", "clf."), "fc.weight"),
    "layers do not fit": (
        lambda: changed(lstm__weight_ih_l1=torch.ones(16, 9)),
        (),
        "lstm.weight_ih_l1",
    ),
    "gates do not fit": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(12, 4)),
        (),
        "lstm.weight_hh_l0",
    ),
    "rows are not four gates": (
        lambda: changed(lstm__weight_ih_l0=torch.ones(18, 3)),
        (),
        "weight_ih_l0",
    ),
    "no rows": (lambda: changed(lstm__weight_ih_l0=torch.ones(0, 3)), (), "hidden_size"),
    "a vector for a matrix": (
        lambda: changed(lstm__weight_ih_l0=torch.ones(16)),
        (),
        "weight_ih_l0",
    ),
    "reverse weight missing": (
        lambda: changed(lstm__weight_hh_l1_reverse=None),
        (),
        "lstm.weight_hh_l1_reverse",
    ),
    "bias missing": (lambda: changed(lstm__bias_hh_l1=None), (), "lstm.bias_hh_l1"),
    "first bias missing": (lambda: changed(lstm__bias_ih_l0=None), (), "bias"),
    "a layer missing": (
        lambda: {k: t for k, t in changed().items() if "_l0" not in k},
        (),
        "weight_ih_l0",
    ),
    "integers": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4, dtype=torch.int64)),
        (),
        "lstm.weight_hh_l0",
    ),
    "complex numbers": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4, dtype=torch.complex64)),
        (),
        "lstm.weight_hh_l0",
    ),
    "a sparse tensor": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4).to_sparse()),
        (),
        "weight_hh_l0",
    ),
    "a tensor without data": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4, device="meta")),
        (),
        "weight_hh_l0",
    ),
    "more tensors": (lambda: changed(norm__weight=torch.ones(8)), (), "norm.weight"),
    "more LSTM tensors": (
        lambda: changed(lstm__norm=torch.ones(8, 2)),
        ("--ignore-unused",),
        "lstm.norm",
    ),
    "head of another width": (
        lambda: changed(fc__weight=torch.ones(5, 4)),
        (),
        "fc.weight is [5, 4], expected [5, 8]",
    ),
    "head without weight": (lambda: changed(fc__weight=None), (), "no fc.weight in it"),
    "head's weight a vector": (
        lambda: changed(fc__weight=torch.ones(5)),
        (),
        "fc.weight is [5], expected a matrix",
    ),
    "head bias of another width": (
        lambda: changed(fc__bias=torch.ones(4)),
        (),
        "fc.bias is [4], expected [5]",
    ),
    "a label short": (
        changed,
        ("--labels", "a,b,c,d"),
        ": labels: expected one per class of the head (5), got 4",
    ),
    "labels, and the head's prefix forgotten": (
        lambda: changed(fc__weight=None, fc__bias=None, clf__weight=torch.ones(2, 8)),
        ("--labels", "a,b"),
        "clf.weight (name them with --head-prefix",
    ),
    "labels without a head": (
        lambda: changed(fc__weight=None, fc__bias=None),
        ("--labels", "a,b"),
        ": labels: expected one per class of the head (0), got 2",
    ),
    "embedding of another width": (
        lambda: changed(embedding__weight=torch.ones(9, 4)),
        (),
        "embedding.weight is [9, 4], expected [9, 3]",
    ),
    "version zero": (changed, ("--model-version", "0"), "--model-version"),
    "a GRU": (
        lambda: {f"lstm.{k}": t for k, t in nn.GRU(3, 4).state_dict().items()},
        (),
        "lstm.weight_hh_l0 is [12, 4]: a GRU's (3 gates), not an LSTM's (4)",
    ),
    "a plain RNN": (
        lambda: {f"lstm.{k}": t for k, t in nn.RNN(3, 4).state_dict().items()},
        (),
        "a plain RNN's (1 gate), not an LSTM's (4)",
    ),
    "NaN": (lambda: changed(fc__bias=torch.full([5], torch.nan)), (), "fc.bias holds"),
    "infinity": (
        lambda: changed(lstm__weight_hh_l1=torch.full([16, 4], -torch.inf)),
        (),
        "lstm.weight_hh_l1 holds",
    ),
    "too large for float32": (
        lambda: changed(fc__bias=torch.full([5], 1e300, dtype=torch.float64)),
        (),
        "fc.bias holds",
    ),
    "a dot forgotten": (changed, ("--lstm-prefix", "lstm"), "did you mean 'lstm.'?"),
    "another LSTM prefix": (
        lambda: {f"model.{k}": t for k, t in changed().items()},
        (),
        "did you mean 'model.lstm.'?",
    ),
    "no LSTM prefix": (
        lambda: dict(classifier().lstm.state_dict()),
        (),
        "did you mean ''?",
    ),
    "the head's dot forgotten": (changed, ("--head-prefix", "fc"), "did you mean 'fc.'?"),
    "the embedding's dot forgotten": (
        lambda: changed(embedding__weight=torch.ones(9, 3)),
        ("--embedding-prefix", "embedding"),
        "did you mean 'embedding.'?",
    ),
    "the beginning of other names for a head": (
        lambda: changed(fc__weight=None, fc__bias=None, fc1__weight=torch.ones(5, 8)),
        ("--head-prefix", "fc"),
        "(--head-prefix); it has: fc1.weight",
    ),
}


PT_ONLY = ("a sparse tensor", "a tensor without data")  # safetensors has no such tensors


@pytest.mark.parametrize(
    ("case", "suffix"),
    [(case, ".pt") for case in UNFIT]
    + [(case, ".safetensors") for case in UNFIT if case not in PT_ONLY],
)
def test_unfit_checkpoint(case: str, suffix: str, tmp_path: Path, failing: Failing) -> None:
    """A state_dict that is no such model is refused, naming what is wrong, and writes nothing."""
    tensors, flags, named = UNFIT[case]
    path = write(tensors(), tmp_path / f"model{suffix}")
    if any(key.startswith("fc.") for key in tensors()):
        flags += ("--pooling", "last")
    said = failing("import", path, "--out", tmp_path / "out", *flags)
    assert named in said.removeprefix(str(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/folder"])
def test_unwritable_out(out: str, tmp_path: Path, failing: Failing) -> None:
    """An --out that can't be a folder is named."""
    (tmp_path / "file").write_text("in the way")
    path = write(classifier().state_dict(), tmp_path / "model.pt")
    said = failing("import", path, "--out", tmp_path / out, "--pooling", "last")
    assert str(tmp_path / out) in said


def test_model_in_the_way(tmp_path: Path, failing: Failing) -> None:
    """A folder that holds a model already is left as it is, unless --overwrite."""
    one, other = (
        write(classifier(seed).state_dict(), tmp_path / f"{seed}.pt") for seed in range(2)
    )
    out = tmp_path / "out"
    import_checkpoint(one, out, pooling=Pooling.LAST)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = failing("import", other, "--out", out)
    assert said == f"{out}: holds a model already; choose another --out or pass --overwrite"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    again = ["import", str(other), "--out", str(out), "--pooling", "last", "--overwrite"]
    assert cli.main(again) == 0
    torch.testing.assert_close(
        load_model(out).lstm.state_dict(), classifier(1).lstm.state_dict(), rtol=0, atol=0
    )


def torch_script() -> bytes:
    """What torch.load takes for a TorchScript archive, and warns of."""
    buffer = io.BytesIO(good_pt())
    with zipfile.ZipFile(buffer, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/constants.pkl", b"")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [torch_script, lambda: bytes_of(classifier())])
def test_failure_of_the_command(content: Callable[[], bytes], tmp_path: Path) -> None:
    """The installed command fails with one line too: no traceback, no library's warnings."""
    path = tmp_path / "model.pt"
    path.write_bytes(content())
    run = subprocess.run(
        [COMMAND, "import", path, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("bilstm-server: ")
    assert run.stderr.count("\n") == 1


# -- folders that are no model ----------------------------------------------------------------


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields))


def edit_weights(folder: Path, name: str, value: float) -> None:
    """One number of the tensor becomes the value."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors[name].view(-1)[-1] = value
    safetensors.torch.save_file(tensors, path)


def swap_weights(folder: Path) -> None:
    """The weights become those of a model with other sizes."""
    other = write_model(folder.parent / "other", input_size=4)
    (other / "model.safetensors").replace(folder / "model.safetensors")


# What is done to a good folder, and what the line must name.
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "no UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), "config.json"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "unknown key": (lambda f: edit_config(f, layers=2), "layers"),
    "key missing": (
        lambda f: (f / "config.json").write_text('{"input_size": 5}'),
        "hidden_size",
    ),
    "negative size": (lambda f: edit_config(f, hidden_size=-6), "hidden_size"),
    "absurd size": (lambda f: edit_config(f, hidden_size=10**18), "config.json"),
    "size beyond 64 bits": (lambda f: edit_config(f, hidden_size=10**30), "config.json"),
    "text for a size": (lambda f: edit_config(f, input_size="wide"), "input_size"),
    "unknown pooling": (
        lambda f: edit_config(f, head={"num_classes": 3, "pooling": "median"}),
        "head.pooling",
    ),
    "a label short": (
        lambda f: edit_config(f, labels=["red"]),
        "config.json: labels: expected one per class of the head (3), got 1",
    ),
    "projection too wide": (lambda f: edit_config(f, proj_size=6), "config.json: proj_size"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1]
        ),
        "model.safetensors",
    ),
    "weights of other sizes": (swap_weights, "lstm.weight_ih_l0"),
    "absurdly many layers": (lambda f: edit_config(f, num_layers=1025), "num_layers"),
    "a weight of NaN": (
        lambda f: edit_weights(f, "lstm.weight_hh_l0", torch.nan),
        "model.safetensors: lstm.weight_hh_l0 holds",
    ),
    "an infinite weight": (
        lambda f: edit_weights(f, "head.bias", torch.inf),
        "model.safetensors: head.bias holds",
    ),
    "more layers than weights": (lambda f: edit_config(f, num_layers=3), "weight_ih_l2"),
    "fewer layers than weights": (lambda f: edit_config(f, num_layers=1), "_l1"),
}


def broken_model(case: str, folder: Path) -> str:
    """Makes the case's folder; returns what must be named."""
    write_model(folder, head={"num_classes": 3}, labels=["r", "g", "b"])
    damage, named = BROKEN[case]
    damage(folder)
    return named


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder(case: str, tmp_path: Path) -> None:
    """A broken model folder is a `ModelError` of one line that names the folder and the fault."""
    folder = tmp_path / "model"
    named = broken_model(case, folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    said = str(caught.value)
    assert said.startswith(str(folder))
    assert named in said.removeprefix(str(folder))
    assert "\n" not in said
    assert "torch.save" not in said


@pytest.mark.parametrize("case", ["unknown key", "no weights", "weights of other sizes"])
def test_serve_broken_folder(case: str, tmp_path: Path, failing: Failing) -> None:
    """`serve` refuses a broken model folder in one line, and ends."""
    folder = tmp_path / "model"
    named = broken_model(case, folder)
    assert named in failing("serve", "--model", f"m={folder}", "--port", 0, "--metrics-port", 0)


def test_serve_missing_folder(tmp_path: Path, failing: Failing) -> None:
    """`serve` names a model folder that is not there."""
    folder = tmp_path / "none"
    assert str(folder) in failing(
        "serve", "--model", f"m={folder}", "--port", 0, "--metrics-port", 0
    )


# -- any damage -------------------------------------------------------------------------------


def small_checkpoint(suffix: str) -> bytes:
    torch.manual_seed(0)
    weights = OrderedDict((f"lstm.{k}", t) for k, t in nn.LSTM(1, 1).state_dict().items())
    return bytes_of(weights) if suffix == ".pt" else safetensors.torch.save(dict(weights))


SMALL = {suffix: small_checkpoint(suffix) for suffix in (".pt", ".safetensors")}


@pytest.mark.parametrize("suffix", SMALL)
@example(position=0, flip=0, truncate=True)
@given(
    position=st.integers(0, max(map(len, SMALL.values())) - 1),
    flip=st.integers(1, 255),
    truncate=st.booleans(),
)
@hypothesis_settings(max_examples=250, deadline=None, derandomize=True)
def test_any_damage(suffix: str, position: int, flip: int, truncate: bool) -> None:
    """A checkpoint with one byte changed, or its end cut off, is imported or refused, whatever
    the byte."""
    content = SMALL[suffix]
    position %= len(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        damaged = content[:position]
        if not truncate:
            damaged += bytes([content[position] ^ flip]) + content[position + 1 :]
        path.write_bytes(damaged)
        with suppress(ModelError):
            import_checkpoint(path, Path(folder) / "out")
            load_model(Path(folder) / "out")
