"""Files that are changed, hostile or of another kind: served models do not notice, and every
command refuses them in one line, without much memory and without waiting.
"""

from __future__ import annotations

import io
import os
import pickle
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import write_model
from torch import Tensor, nn

from bilstm_client import Client
from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint, load_model
from bilstm_server.model.storage import folder as model_folders
from bilstm_server.model.storage.weights import read_tensors
from bilstm_server.testing import server_process


def lstm_tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"lstm.{name}": tensor for name, tensor in nn.LSTM(3, 4).state_dict().items()}


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


# -- a served model is the server's own -------------------------------------------------------


def overwrite(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)  # the same inode, as `cp` does


def truncate(path: Path, other: Path) -> None:
    os.truncate(path, 10)


def zero(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def delete(path: Path, other: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_of_a_served_model_change(dtype: str, kernel: str, tmp_path: Path) -> None:
    """Whatever happens to the files of a served model, its answers stay the same, bit by bit."""
    sizes: dict[str, Any] = {
        "embedding": {"num_embeddings": 5000},
        "input_size": 8,
        "head": {"num_classes": 3, "pooling": "last"},
    }
    folder = write_model(tmp_path / "served", **sizes)
    other = write_model(tmp_path / "other", seed=1, **sizes)
    ids = np.random.default_rng(0).integers(0, 5000, 300)
    flags = ("--model", f"m={folder}", "--dtype", dtype, "--kernel", kernel)
    with server_process(*flags) as server, Client(server.target) as client:

        def answer() -> list[bytes]:
            encoding = client.encode(ids, outputs=["states", "logits"])
            return [encoding.states.tobytes(), encoding.logits.tobytes()]

        before = answer()
        for change in (overwrite, zero, truncate, delete):
            for name in ("model.safetensors", "config.json"):
                change(folder / name, other / name)
            assert answer() == before, change.__name__


# -- files that change while they are read ----------------------------------------------------


def during(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """The change happens between the reading of the config and of the weights."""

    def read(*arguments: Any) -> dict[str, Tensor]:
        change()
        return read_tensors(*arguments)

    monkeypatch.setattr(model_folders, "read_tensors", read)


def test_a_torn_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model written over between the reading of its config and of its weights is not loaded."""
    folder = write_model(tmp_path / "model", head={"num_classes": 3, "pooling": "last"})
    during(
        monkeypatch,
        lambda: write_model(folder, seed=1, head={"num_classes": 3, "pooling": "mean"}),
    )
    with pytest.raises(ModelError, match=r"config.json: was changed while it was read"):
        load_model(folder)
    monkeypatch.undo()
    assert load_model(folder).config.head is not None


@pytest.mark.parametrize("size", [100, 0])
def test_weights_cut_short_while_they_are_read(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are truncated while they are read are an error in words, and no SIGBUS."""
    folder = write_model(tmp_path / "model")
    path = folder / "model.safetensors"
    original = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = original(descriptor)
        if os.path.samestat(status, path.stat()):
            os.truncate(path, size)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(ModelError, match=r"model.safetensors: was changed while it was read"):
        load_model(folder)


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint_changes_while_it_is_read(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved(lstm_tensors(), _use_new_zipfile_serialization=not legacy))
    original = torch.load

    def load(*arguments: Any, **options: Any) -> object:
        os.truncate(path, 700)
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ModelError, match="was changed while it was read"):
        import_checkpoint(path, tmp_path / "out")


# -- what is no file, or too large ------------------------------------------------------------

KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "is a pipe, not a file"),
    "zeros without end": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "nothing": (lambda path: path.symlink_to("/dev/null"), "is a device, not a file"),
    "a folder": (Path.mkdir, "is a folder, not a file"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "levels of symbolic links"),
}


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_import_of_no_file(kind: str, name: str, tmp_path: Path) -> None:
    make, words = KINDS[kind]
    make(tmp_path / name)
    with pytest.raises(ModelError, match=words):
        import_checkpoint(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_folder_with_no_file(kind: str, name: str, tmp_path: Path) -> None:
    make, words = KINDS[kind]
    folder = write_model(tmp_path / "model")
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(ModelError, match=f"{name}: .*{words}"):
        load_model(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_in_no_file(
    kind: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = KINDS[kind]
    make(tmp_path / "x.npy")
    assert cli.main(["lookahead", str(tmp_path / "x.npy"), "--model", str(model_folder)]) == 1
    assert words in capsys.readouterr().err


def test_links(tmp_path: Path) -> None:
    """Links to files are followed."""
    folder = write_model(tmp_path / "model")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("config.json", "model.safetensors"):
        (linked / name).symlink_to(folder / name)
    assert load_model(linked).config == load_model(folder).config


def sparse(path: Path, size: int) -> Path:
    with path.open("ab") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    ("name", "size"),
    [("config.json", 2**40), ("config.json", 2**24 + 1), ("model.safetensors", 2**40)],
)
def test_files_too_large(name: str, size: int, tmp_path: Path) -> None:
    """A file that is larger than a model's can be is not read."""
    folder = write_model(tmp_path / "model")
    sparse(folder / name, size)
    with pytest.raises(ModelError, match=f"{name}: is too large: {size:,} bytes"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_checkpoint_too_large(name: str, tmp_path: Path) -> None:
    sparse(tmp_path / name, 2**42)
    with pytest.raises(ModelError, match="is too large"):
        import_checkpoint(tmp_path / name, tmp_path / "out")


def safetensors_with(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


ABSURD = {
    "a header beyond the file": safetensors_with(b"{}", length=2**62),
    "a header of noise": safetensors_with(b"{" * 1000),
    "tensors beyond the file": safetensors_with(
        b'{"lstm.weight_ih_l0":{"dtype":"F32","shape":[1000000,1000000],'
        b'"data_offsets":[0,4000000000000]}}'
    ),
    "sizes that overflow": safetensors_with(
        b'{"lstm.weight_ih_l0":{"dtype":"F32","shape":[4294967296,4294967296],'
        b'"data_offsets":[0,0]}}'
    ),
    "tensors that overlap": safetensors_with(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_headers(case: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(ABSURD[case])
    with pytest.raises(ModelError, match=r"not a readable \.safetensors file"):
        import_checkpoint(path, tmp_path / "out")


# -- little files of large tensors ------------------------------------------------------------

LARGE = 2**30  # of float32: 4 GiB


def expanded() -> bytes:
    tensors = lstm_tensors()
    tensors["lstm.weight_ih_l0"] = torch.zeros(1).expand(16, LARGE // 16)
    return saved(tensors)


def overlapping() -> bytes:
    tensors = lstm_tensors()
    tensors["lstm.weight_ih_l0"] = torch.zeros(2**17).as_strided((2**16, 2**16), (1, 1))
    return saved(tensors)


def shared() -> bytes:
    """A tensor that stands for thousands."""
    one = torch.zeros(2**20)
    return saved({f"lstm.weight_ih_l{layer}": one for layer in range(1000)})


def deflated() -> bytes:
    """An archive as torch.save writes it, but compressed, with many zeros."""
    plain, packed = io.BytesIO(saved(lstm_tensors())), io.BytesIO()
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        with target.open("archive/data/9", "w", force_zip64=True) as member:
            for _ in range(2**8):
                member.write(bytes(2**20))
    return packed.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "expanded": (expanded, "lstm.weight_ih_l0 repeats the same numbers in memory"),
    "overlapping": (overlapping, "lstm.weight_ih_l0 repeats the same numbers in memory"),
    "shared": (shared, "its tensors take 4,194,304,000 bytes, but the file only"),
    "deflated": (deflated, "is compressed"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("case", HOSTILE)
def test_little_file_of_large_tensors(case: str, legacy: bool, tmp_path: Path) -> None:
    """A checkpoint whose tensors take far more than its bytes is refused before they are made."""
    content, words = HOSTILE[case]
    path = tmp_path / "model.pt"
    path.write_bytes(content())
    if legacy and case != "deflated":
        tensors = torch.load(path, weights_only=True)
        path.write_bytes(saved(tensors, _use_new_zipfile_serialization=False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=words):
        import_checkpoint(path, tmp_path / "out", ignore_unused=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_tied_tensors_are_no_attack(tmp_path: Path) -> None:
    """Weights that many layers share are taken."""
    lstm = nn.LSTM(64, 64, 6)
    state = lstm.state_dict()
    tied = {f"lstm.{name}": state[name[:-1] + "0"] for name in state}
    (tmp_path / "model.pt").write_bytes(saved(tied))
    assert import_checkpoint(tmp_path / "model.pt", tmp_path / "out").num_layers == 6


def large_samples(path: Path) -> Path:
    """An archive whose directory says that it is large; what it says is what is read."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", array())
        archive.filelist[0].file_size = 5 * 2**30
    return path


def claiming_samples(path: Path) -> Path:
    """A header of an array that is larger than any memory."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**45, 5)}
        np.lib.format.write_array_header_1_0(file, header)
    return path


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (large_samples, "x.npz", "x.npz: is too large: 5,368,709,120 bytes unpacked"),
        (claiming_samples, "x.npy", "x.npy: "),
        (lambda path: sparse(path, 2**33), "x.npy", "x.npy: is too large"),
    ],
)
def test_large_samples(
    make: Callable[[Path], Path],
    name: str,
    words: str,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Samples that would fill the memory are refused."""
    path = make(tmp_path / name)
    assert cli.main(["lookahead", str(path), "--model", str(model_folder)]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


# -- what a file is instead, and what to do ---------------------------------------------------


class Own:
    """A class of a user's."""


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, b"")
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    return buffer.getvalue()


def torch_script() -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(saved(lstm_tensors())), "a") as made:
        made.writestr("archive/constants.pkl", b"")
    return buffer.getvalue()


def nested() -> dict[str, object]:
    return {
        "optimizer": {"0": torch.ones(2)},
        "epoch": 3,
        "model_state_dict": {f"module.{k}": t for k, t in lstm_tensors().items()},
    }


INSTEAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    ".npz": ("w.npz", arrays, "an archive of NumPy arrays (.npz)"),
    ".npy": ("w.npy", array, "a NumPy array"),
    ".keras": ("w.keras", lambda: archive("config.json", "model.weights.h5"), "as Keras writes it"),
    ".h5": ("w.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras writes it"),
    ".onnx": ("w.onnx", lambda: b"\x08\x07\x12\x07pytorch", "an ONNX model"),
    "TorchScript": ("w.pt", torch_script, "torch.jit.load('w.pt', map_location='cpu')"),
    "a pickle": ("w.pkl", lambda: pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    "JSON": ("index.json", lambda: b'{"weight_map": {}}', "JSON"),
    "a pointer": ("w.pt", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "gzip": ("w.pt.gz", lambda: b"\x1f\x8b" + bytes(50), "compressed; unpack it first"),
    "safetensors": (
        "w.pt",
        lambda: safetensors.torch.save(lstm_tensors()),
        "a .safetensors file; rename it",
    ),
    ".pt": ("w.safetensors", lambda: saved(lstm_tensors()), "a .pt file; rename it"),
    "an archive of nothing": ("w.pt", lambda: archive("a/b"), "not a readable .pt file"),
    "a user's class": ("w.pt", lambda: saved({"x": Own()}), "holds a test_model_files.Own,"),
    "a module": ("w.pt", lambda: saved(nn.LSTM(2, 3)), "holds a torch.nn.modules.rnn.LSTM,"),
    "a path": ("w.pt", lambda: saved({"p": Path("x")}), "holds a pathlib.PosixPath,"),
    "an optimizer's tensors first": ("w.pt", lambda: saved(nested()), "under 'model_state_dict'"),
    "two levels": (
        "w.pt",
        lambda: saved({"a": {"b": lstm_tensors()}}),
        "torch.load('w.pt', map_location='cpu')['a']['b']",
    ),
    "two models": (
        "w.pt",
        lambda: saved({"net": lstm_tensors(), "ema": lstm_tensors()}),
        "holds several dicts with an LSTM: ['net'], ['ema']; save just one",
    ),
    "other things beside": (
        "w.pt",
        lambda: saved(lstm_tensors() | {"epoch": 3}),
        "holds other things beside its tensors",
    ),
}


@pytest.mark.parametrize("case", INSTEAD)
def test_what_a_file_is_instead(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another kind is told what it is, in one line with what to do."""
    name, content, words = INSTEAD[case]
    (tmp_path / name).write_bytes(content())
    assert cli.main(["import", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "case", ["an optimizer's tensors first", "two levels", "other things beside"]
)
def test_advice_is_right(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is advised, followed to the letter, gives a checkpoint that is imported."""
    monkeypatch.chdir(tmp_path)
    name, content, _ = INSTEAD[case]
    Path(name).write_bytes(content())
    assert cli.main(["import", name, "--out", "out"]) == 1
    exec(capsys.readouterr().err.split(": ", 3)[-1], {"torch": torch})
    prefix = "module.lstm." if case == "an optimizer's tensors first" else "lstm."
    assert cli.main(["import", "weights.pt", "--out", "out", "--lstm-prefix", prefix]) == 0


def test_advice_for_ddp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DistributedDataParallel's prefix is found."""
    path = tmp_path / "model.pt"
    path.write_bytes(saved({f"module.{k}": t for k, t in lstm_tensors().items()}))
    assert cli.main(["import", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "did you mean 'module.lstm.'?" in capsys.readouterr().err


def test_names_that_would_move_the_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in a file are printed as one line that no terminal acts on, and not without end."""
    path = tmp_path / "model.pt"
    names = ("a\nb", "\x1b[2J", "\u202e", "x" * 10**6)
    path.write_bytes(saved(lstm_tensors() | {name: torch.ones(2) for name in names}))
    assert cli.main(["import", str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "a\\nb, \\x1b[2J, \\u202e" in said
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    assert len(said) < 3000
