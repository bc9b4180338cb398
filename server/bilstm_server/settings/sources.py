"""Which folders are served, and under which names. Looks at what lies in a folder, and into no
model.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from ..errors import ModelError
from ..quoting import quoted

_MAX_NAME_CHARACTERS = 255  # as a file's name has at most


class ModelSource(NamedTuple):
    """A model's folder, and the name under which the model in it is served."""

    name: str
    folder: Path


class LeftOut(NamedTuple):
    """Something in the models folder that is not served, and why."""

    path: Path
    reason: str


SHIPPED_MODEL = ModelSource(
    "japanese_vowels", Path(__file__).parent.parent / "models" / "japanese_vowels"
)


def parse_model_sources(value: object) -> object:
    """Read the setting: `NAME=FOLDER`, or several of them, in a list or separated by commas. Raises
    `ValueError`."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        return value
    return tuple(_parse_source(item) if isinstance(item, str) else item for item in value)


def _parse_source(text: str) -> ModelSource:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ValueError(f"must be NAME=FOLDER, got {quoted(text)}")
    if not name.isprintable():
        raise ValueError(f"the name must be of printable characters, got {quoted(name)}")
    if len(name) > _MAX_NAME_CHARACTERS:
        raise ValueError(
            f"the name must have at most {_MAX_NAME_CHARACTERS} characters, got {len(name)}"
        )
    return ModelSource(name, Path(folder))


def find_models(folder: Path) -> tuple[list[ModelSource], list[LeftOut]]:
    """Find the model folders in `folder`, each under its own name; and what else is there and not
    served. What is hidden, and a README.md, are neither.

    Raises `ModelError` if `folder` can't be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder}: {error.strerror}") from error
    sources, left_out = [], []
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "README.md":
            continue
        if reason := _why_not(entry):
            left_out.append(LeftOut(entry, reason))
        else:
            sources.append(ModelSource(entry.name, entry))
    return sources, left_out


def has_model(folder: Path) -> bool:
    """Whether the folder is a model's itself."""
    try:
        return (folder / "config.json").exists()
    except OSError:
        return False


def _why_not(entry: Path) -> str:
    """Why what lies there is not served; empty if it is."""
    if not entry.name.isprintable():
        return "its name has characters that can't be printed"
    try:
        if not stat.S_ISDIR(entry.stat().st_mode):
            return "it is no folder"
        return "" if (entry / "config.json").exists() else "it has no config.json"
    except FileNotFoundError:
        return "it is a link to what is not there"
    except OSError as error:  # a loop of links, say, or no permission
        return error.strerror or type(error).__name__
