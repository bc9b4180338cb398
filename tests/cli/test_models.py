"""Which models are served: by flags, from a folder, and what is left out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bilstm_server.settings import SHIPPED_MODEL
from tests.cli.loading import Load
from tests.support.commands import run
from tests.support.servers import start_error, write_model


def test_models_by_flags(load: Load) -> None:
    """--model may be repeated, and each may name several models, in order."""
    loaded = load("--model", "a=x", "--model", "b=y/z")
    assert loaded.model == (("a", Path("x")), ("b", Path("y/z")))
    assert load("--model", "a=x,b=y/z").model == loaded.model
    assert load(BILSTM_MODEL="a=x,b=y/z").model == loaded.model


def test_models_folder(load: Load, tmp_path: Path) -> None:
    """Every model in --models-folder has its folder's name, behind --model or the one that ships;
    hidden folders are none, and those without a model are told of."""
    for name in ("b", "a", ".git", "lost+found"):
        (tmp_path / name).mkdir()
    for name in ("a/config.json", "b/config.json", "README.md"):
        (tmp_path / name).touch()
    a, b = ("a", tmp_path / "a"), ("b", tmp_path / "b")
    loaded = load("--models-folder", str(tmp_path))
    assert loaded.find_models() == (
        (SHIPPED_MODEL, a, b),
        [(tmp_path / "lost+found", "it has no config.json")],
    )
    named = load("--model", "x=y", "--model", f"z={tmp_path}/b", "--models-folder", str(tmp_path))
    assert named.find_models()[0] == (("x", Path("y")), ("z", tmp_path / "b"), a)


def test_what_a_models_folder_leaves_out(load: Load, tmp_path: Path) -> None:
    """Whatever lies in --models-folder and is not served is told of, and why; names that can't be
    printed are not served."""
    (tmp_path / "classifier.pt").touch()
    (tmp_path / "README.md").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "away")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "own link").mkdir()
    (tmp_path / "own link" / "config.json").symlink_to("away.json")
    hostile = ("a\nb", "\x1b[2J", "\u202emodel", os.fsdecode(b"\xff"))
    for name in ("good", *hostile):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    sources, left_out = load("--models-folder", str(tmp_path)).find_models()
    assert sources == (SHIPPED_MODEL, ("good", tmp_path / "good"))
    assert {path.name: reason for path, reason in left_out} == {
        "classifier.pt": "it is no folder",
        "fifo": "it is no folder",
        "dangling": "it is a link to what is not there",
        "loop": "Too many levels of symbolic links",
        "own link": "it has no config.json",
        **dict.fromkeys(hostile, "its name has characters that can't be printed"),
    }


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_hostile_names_are_not_echoed(log_format: str, tmp_path: Path) -> None:
    """What is left out is a warning each, in which a name stays on its line."""
    (tmp_path / "a\n\x1b[2Jb").mkdir()
    arguments = f"--models-folder={tmp_path}", f"--model=x={tmp_path}/none"
    free = "--port=0", "--metrics-port=0", f"--log-format={log_format}"
    ended = run("bilstm-server", "serve", *arguments, *free)
    (line,) = (line for line in ended.stderr.splitlines() if "not served" in line)
    assert "can't be printed" in line
    assert "\x1b" not in ended.stderr


def test_models_folder_replaces_the_shipped_model(load: Load, tmp_path: Path) -> None:
    """A model found under the name of the one that ships is served in its place."""
    own = tmp_path / SHIPPED_MODEL.name
    own.mkdir()
    (own / "config.json").touch()
    loaded = load("--models-folder", str(tmp_path))
    assert loaded.find_models() == (((SHIPPED_MODEL.name, own),), [])


def test_model_twice(tmp_path: Path) -> None:
    """Two models of one name and version are one clear line: nothing is served."""
    folder = write_model(tmp_path / "model")
    failed = run(
        "bilstm-server", "serve", f"--model=a={folder},a={folder}", "--port=0", "--metrics-port=0"
    )
    assert failed.returncode == 1
    assert "twice" in start_error(failed.stderr)
