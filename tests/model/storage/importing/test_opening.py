"""What people save is opened: dictionaries in dictionaries, prefixes, tensors of a GPU, a hub's
folder, and other things beside the weights.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bilstm_server.errors import ModelError
from bilstm_server.model import Pooling, import_checkpoint, load_model
from bilstm_server.model.storage.checkpoints.opening import open_checkpoint
from tests.model.storage.files import lstm_tensors, saved
from tests.model.storage.importing.checkpoints import classifier


def weights() -> dict[str, Tensor]:
    return dict(classifier(vocabulary=11).state_dict())


def assert_imported(path: Path, **said: object) -> None:
    """The classifier's weights are read, each number of them."""
    out = path.parent / "out"
    import_checkpoint(path, out, pooling=Pooling.LAST, overwrite=True, **said)  # type: ignore[arg-type]
    state = load_model(out).state_dict()
    for name, tensor in weights().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def cyclic() -> dict[str, object]:
    outer: dict[str, object] = {"model": weights()}
    outer["self"] = outer
    return outer


NESTED: dict[str, Callable[[], object]] = {
    "a training's": lambda: {"epoch": 3, "state_dict": weights(), "optimizer": {"state": {}}},
    "Lightning's": lambda: {
        "state_dict": {f"model.{name}": tensor for name, tensor in weights().items()},
        "pytorch-lightning_version": "2.0.7",
        "hyper_parameters": {"lr": 1e-3},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
    },
    "an optimizer's tensors first": lambda: {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "names": {"w": torch.ones(2)}},
        "net": weights(),
    },
    "four levels": lambda: {"a": {"b": {"c": {"d": weights()}}}},
    "in a list": lambda: [{"epoch": 1}, weights()],
    "other things beside": lambda: weights() | {"epoch": 3, "name": "x", "best": 0.5, "none": None},
    "one that holds itself": cyclic,
}


@pytest.mark.parametrize("case", NESTED)
def test_nested(case: str, tmp_path: Path) -> None:
    """The only dictionary with an LSTM is taken, wherever in the file it is."""
    torch.save(NESTED[case](), tmp_path / "model.pt")
    assert_imported(tmp_path / "model.pt")


def test_what_was_taken_is_said(tmp_path: Path) -> None:
    """Which dictionary was taken is said, and which others with tensors were not."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}}
    others = {"head": {"weight": torch.ones(2, 2)}, "epoch": 3, "optimizer": optimizer}
    torch.save({"nets": {"main": weights()}} | others, tmp_path / "model.pt")
    notes = open_checkpoint(tmp_path / "model.pt").notes
    assert notes == ("took the tensors under 'nets.main'; not taken: head",)


def test_several_dictionaries(tmp_path: Path) -> None:
    """Which of several models is meant is asked, and said by --key."""
    averaged = {name: tensor + 1 for name, tensor in weights().items()}
    torch.save({"ema": averaged, "net": {"model": weights()}}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"several dictionaries with an LSTM: ema, net.model; tak"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert_imported(tmp_path / "model.pt", key="net.model")


def test_keys_with_dots(tmp_path: Path) -> None:
    """Two dictionaries are two, also where the keys on the way to them read alike."""
    torch.save({"a.b": weights(), "a": {"b": weights()}}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"with an LSTM: a\.b, a\.b'; take one with --key"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert_imported(tmp_path / "model.pt", key="a.b")


def test_model_and_its_average_beside(tmp_path: Path) -> None:
    """The outermost dictionary has the key `.`."""
    torch.save(weights() | {"ema": weights()}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"with an LSTM: \., ema; take one with --key"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert_imported(tmp_path / "model.pt", key=".")


def test_unknown_key(tmp_path: Path) -> None:
    """A key that is none is answered with those that there are."""
    torch.save({"net": weights()}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="--key 'model' is no dictionary of tensors in it; there"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out", key="model")
    safetensors.torch.save_file(weights(), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="--key is for files"):
        import_checkpoint(tmp_path / "model.safetensors", tmp_path / "out", key="model")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.net."])
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    """What all names begin with is no part of them, for layers and for flags."""
    torch.save({f"{prefix}{n}": t for n, t in weights().items()}, tmp_path / "model.pt")
    assert_imported(tmp_path / "model.pt")
    assert_imported(tmp_path / "model.pt", lstm_prefix="lstm.", head_prefix="fc.")
    assert_imported(tmp_path / "model.pt", lstm_prefix=f"{prefix}lstm.")


def test_tensors_of_a_gpu(tmp_path: Path) -> None:
    """Tensors that were saved on a GPU are read on a machine without one."""
    source = zipfile.ZipFile(io.BytesIO(saved(weights())))
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(name, content)
    assert_imported(tmp_path / "model.pt")


class Settings:
    """A class of a training script's own."""


def test_other_classes_are_named(tmp_path: Path) -> None:
    """An object of another class is not loaded; it is named, with what to do."""
    torch.save({"state_dict": weights(), "args": Settings()}, tmp_path / "model.pt")
    with pytest.raises(ModelError) as raised:
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    said = str(raised.value)
    assert f"holds a {__name__}.Settings, which is not loaded" in said
    assert "if you trust the file" in said


# -- a hub's folder -----------------------------------------------------------------------------


def test_folder_of_one_file(tmp_path: Path) -> None:
    """A folder with model.safetensors is read, or with one file of another name."""
    for name in ("model.safetensors", "weights.safetensors"):
        folder = tmp_path / name.split(".")[0] / "hub"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        safetensors.torch.save_file(weights(), folder / name)
        assert_imported(folder)


def sharded(folder: Path, **files: dict[str, Tensor]) -> Path:
    folder.mkdir()
    index: dict[str, str] = {}
    for name, tensors in files.items():
        safetensors.torch.save_file(tensors, folder / f"{name}.safetensors")
        index |= dict.fromkeys(tensors, f"{name}.safetensors")
    content = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(content)
    return folder


def test_folder_of_several_files(tmp_path: Path) -> None:
    """The files that an index names are read together."""
    lstm = {name: tensor for name, tensor in weights().items() if name.startswith("lstm.")}
    others = {name: tensor for name, tensor in weights().items() if name not in lstm}
    assert_imported(sharded(tmp_path / "hub", one=lstm, two=others))


def test_files_elsewhere(tmp_path: Path) -> None:
    """An index that names files in other folders is refused, and so is a tensor in two files."""
    safetensors.torch.save_file(weights(), tmp_path / "secret.safetensors")
    one, two = (lstm_tensors() | {name: torch.ones(1)} for name in "ab")
    hub = sharded(tmp_path / "hub", one=one, two=two)
    with pytest.raises(ModelError, match="is in two of its files"):
        import_checkpoint(hub, tmp_path / "out")
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), 3, None):
        index = {"weight_map": {"lstm.weight_ih_l0": name}}
        (hub / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=r"is no index of \.safetensors files"):
            import_checkpoint(hub, tmp_path / "out")


def test_folder_without_weights(tmp_path: Path) -> None:
    """A folder with none or several files of tensors, and no index, is refused with its files."""
    (tmp_path / "hub").mkdir()
    with pytest.raises(ModelError, match=r"hub: is a folder, not a file, and has no model\.safe"):
        import_checkpoint(tmp_path / "hub", tmp_path / "out")
    for name in ("a", "b"):
        safetensors.torch.save_file(lstm_tensors(), tmp_path / "hub" / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"name one of its files: a\.safetensors, b\.safetensors"):
        import_checkpoint(tmp_path / "hub", tmp_path / "out")


def test_no_lstm_at_all(tmp_path: Path) -> None:
    """A file without a recurrence is refused with what it has."""
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="holds no LSTM in any of its dictionaries of tensors"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"no LSTM in it .* it has: weight, bias"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
