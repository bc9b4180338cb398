"""The ways in which files are changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def renamed(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    os.replace(path.with_suffix(".new"), path)


def swapped_folder(path: Path, data: bytes) -> None:
    swap_folder(path.parent, {path.name: data})


def swap_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Change all files of a folder at once, as Kubernetes does it: each is a link into `..data`,
    itself a link to a folder."""
    fresh = folder / f"..{len(list(folder.iterdir()))}"
    fresh.mkdir()
    for name, data in files.items():
        (fresh / name).write_bytes(data)
        (fresh / name).chmod(0o600)
    (folder / "..new").symlink_to(fresh.name)
    os.replace(folder / "..new", folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
