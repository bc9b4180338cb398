"""A folder with an owner's code, as the current one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.owners_code import owners_folder


@pytest.fixture
def owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder: a tagger.py is in it."""
    with owners_folder(tmp_path, monkeypatch) as folder:
        yield folder
