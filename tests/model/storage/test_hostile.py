"""What is no file, too large, or larger than it looks is refused in one line, without much memory
and without waiting.
"""

from __future__ import annotations

import io
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint, load_model
from tests.model.storage.files import array, lstm_tensors, saved
from tests.support.servers import write_model

# -- what is no file, or too large ---------------------------------------------------------------


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
    """A checkpoint that is no regular file is refused as what it is, without waiting."""
    make, words = KINDS[kind]
    make(tmp_path / name)
    with pytest.raises(ModelError, match=words):
        import_checkpoint(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_folder_with_no_file(kind: str, name: str, tmp_path: Path) -> None:
    """A model folder in which one name is no regular file is refused, and the name told."""
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
    """Samples that are no regular file are refused as what they are, without waiting."""
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
    """A checkpoint that is larger than a model's can be is not read."""
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
    """A .safetensors file with a header that can't be is refused as unreadable."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(ABSURD[case])
    with pytest.raises(ModelError, match=r"not a readable \.safetensors file"):
        import_checkpoint(path, tmp_path / "out")


# -- little files of large tensors ---------------------------------------------------------------


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
    config = import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert [lstm.num_layers for lstm in config.lstms] == [6]


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
