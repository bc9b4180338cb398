"""Files that are damaged, or made to harm, end in one line."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_server.errors import ModelError
from bilstm_server.model.storage.from_keras import read_keras
from tests.model.storage.from_keras.files import sequential, write_keras, write_named
from tests.model.storage.from_keras.layers import dense, lstm
from tests.model.storage.from_keras.reading import refusal
from tests.model.storage.from_keras.test_functional import call, entry, functional, inputs, tensor

LAYERS = [lstm(3, 4), dense(4, 2)]
CONFIG = sequential(LAYERS, [None, None, 3])


def kernel(file: h5py.File) -> tuple[h5py.Group, str]:
    """The group of the last layer, and its kernel's name in it."""
    name = LAYERS[-1].name
    return file[f"model_weights/{name}"], f"{name}/kernel:0"


def elsewhere(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    group[name] = h5py.ExternalLink(other, "secret")


def soft_link(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    group[name] = h5py.SoftLink(f"/model_weights/{LAYERS[-1].name}/{LAYERS[-1].name}/bias:0")


def external_storage(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    group.create_dataset(name, (4, 2), np.float32, external=[(str(other), 0, 32)])


def virtual(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    layout = h5py.VirtualLayout((4, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "secret", (4, 2))
    group.create_virtual_dataset(name, layout)


def compressed(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    group.create_dataset(name, data=np.zeros((4, 2), np.float32), compression="gzip")


def never_written(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    group.create_dataset(name, (2**40, 2**20), np.float32, chunks=(1024, 1024))


def words(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    group[name] = np.array([b"four", b"two"])


def nan(file: h5py.File, other: Path) -> None:
    group, name = kernel(file)
    group[name] = np.full((4, 2), np.nan, np.float32)


@pytest.mark.parametrize(
    ("replace", "said"),
    [
        (elsewhere, "the file has no dataset"),
        (soft_link, "the file has no dataset"),
        (external_storage, "is no array of numbers in this file"),
        (virtual, "is no array of numbers in this file"),
        (compressed, "is compressed or incomplete"),
        (never_written, "is compressed or incomplete"),
        (words, "is no array of numbers in this file"),
        (nan, "weight holds NaN or infinity"),
    ],
)
def test_a_variable(replace: Callable[[h5py.File, Path], None], said: str, tmp_path: Path) -> None:
    """A variable that is elsewhere, takes more memory than the file, or is no number is refused."""
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.ones((4, 2), np.float32)
    path = write_named(tmp_path / "model.h5", CONFIG, LAYERS)
    with h5py.File(path, "a") as file:
        group, name = kernel(file)
        del group[name]
        replace(file, other)
    assert said in refusal(path)


def archive(path: Path, config: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """A `.keras` file whose config is any text."""
    made = write_keras(path, CONFIG, LAYERS)
    weights = zipfile.ZipFile(made).read("model.weights.h5")
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("config.json", config)
        file.writestr("model.weights.h5", weights)
    return path


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("", "its config is no JSON of a model's"),
        ("{", "its config is no JSON of a model's"),
        ("[" * 100_000, "its config is no JSON of a model's"),
        ("[]", "its config is a list"),
        ("{}", "class_name is missing"),
        ('{"class_name": "Sequential"}', "its config is missing"),
        ('{"class_name": "Sequential", "config": {}}', "layers is missing"),
        ('{"class_name": "Sequential", "config": {"layers": []}}', "has no layers"),
        ('{"class_name": "Sequential", "config": {"layers": [1]}}', "its config is a int"),
        (json.dumps(functional([entry(LAYERS[0])], None, None)), "no list of its inputs"),
    ],
)
def test_a_config(config: str, said: str, tmp_path: Path) -> None:
    """A config that is none is refused."""
    assert said in refusal(archive(tmp_path / "model.keras", config))


def test_a_compressed_archive(tmp_path: Path) -> None:
    """An archive that takes more memory than it has bytes is refused before it is unpacked."""
    text = json.dumps(CONFIG) + " " * 2**24
    path = archive(tmp_path / "model.keras", text, zipfile.ZIP_DEFLATED)
    assert "is compressed, or its config is too large" in refusal(path)


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_an_incomplete_archive(member: str, tmp_path: Path) -> None:
    """An archive without its config or its weights is refused."""
    path = write_keras(tmp_path / "model.keras", CONFIG, LAYERS)
    members = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            if name != member:
                file.writestr(name, content)
    assert f"has no {member}" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_another_file(content: bytes, tmp_path: Path) -> None:
    """A file that is neither HDF5 nor an archive is refused."""
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    assert "is no file of Keras's" in refusal(path)


def test_layers_in_a_circle(tmp_path: Path) -> None:
    """Layers that read each other are refused."""
    a, b = dense(3, 3), dense(3, 3)
    entries = [
        entry(inputs()[1]),
        entry(a, call(tensor(b.name))),
        entry(b, call(tensor(a.name))),
    ]
    config = functional(entries, ["features", 0, 0], [b.name, 0, 0])
    said = refusal(write_keras(tmp_path / "model.keras", config, [a, b]))
    assert "reads its own result" in said


def test_a_thousand_layers(tmp_path: Path) -> None:
    """A chain that is longer than the stack of calls is read."""
    layers = [lstm(3, 3, return_sequences=True), *(dense(3, 3) for _ in range(1010))]
    model = read_keras(
        write_keras(tmp_path / "model.keras", sequential(layers, [None, None, 3]), layers)
    )
    assert model.config is not None
    assert len(model.config.layers) == len(layers)


def _bytes_of_a_model() -> bytes:
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file.attrs["model_config"] = json.dumps(CONFIG)
        group = file.create_group("model_weights")
        for layer in LAYERS:
            own = group.create_group(layer.name)
            own.attrs["weight_names"] = [name.encode() for name, _ in layer.named]
            for name, array in layer.named:
                own[name] = array
    return weights.getvalue()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_damage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file that is cut short, or has one byte changed, is read or refused, and no more."""
    content = bytearray(_bytes_of_a_model())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.h5"
    path.write_bytes(content)
    with suppress(ModelError):
        read_keras(path)
