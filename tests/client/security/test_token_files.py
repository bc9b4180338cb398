"""Files of tokens: when they are read anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bilstm_client._calls import tokens
from bilstm_client._calls.metadata import AUTHORIZATION
from bilstm_client._calls.tokens import FileToken
from tests.client.security.calls import swap


def read_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at for each call."""
    monkeypatch.setattr(tokens, "_LOOK_SECONDS", 0.0)


def text_of(token: FileToken) -> str:
    name, value = token.header()
    assert name == AUTHORIZATION
    return str(value).removeprefix("Bearer ")


@pytest.mark.parametrize("way", ["written", "replaced", "linked"])
def test_file_changes(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read anew when it is written to or replaced, or when a link on its way is, as
    Kubernetes does; also where size and time stay the same."""
    read_always(monkeypatch)
    file = tmp_path / "token"
    if way == "linked":
        for version in ("one", "two"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "token").write_text(version)
        (tmp_path / "data").symlink_to("one")
        file.symlink_to("data/token")
    else:
        file.write_text("one")
    token = FileToken(file)
    assert text_of(token) == "one"
    before = file.stat()
    if way == "written":
        file.write_text("three")
        assert text_of(token) == "three"
    elif way == "replaced":
        swap(file, "two")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert text_of(token) == "two"
    else:
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "data")
        assert text_of(token) == "two"


@pytest.mark.parametrize("damage", ["gone", "empty", "wrong", "a folder"])
def test_file_that_can_not_be_read_anew(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is damaged the token stays that was in it, and the next good one is taken."""
    read_always(monkeypatch)
    file = tmp_path / "token"
    file.write_text("one")
    token = FileToken(file)
    if damage in ("gone", "a folder"):
        file.unlink()
    if damage == "a folder":
        file.mkdir()
    elif damage != "gone":
        file.write_text("" if damage == "empty" else "no token\n")
    assert text_of(token) == "one"
    if damage == "a folder":
        file.rmdir()
    swap(file, "two")
    assert text_of(token) == "two"


def test_file_is_not_looked_at_for_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second it is not, but when its token was refused."""
    now, file = 100.0, tmp_path / "token"
    monkeypatch.setattr("time.monotonic", lambda: now)
    file.write_text("one")
    token = FileToken(file)
    swap(file, "two")
    now += 0.9
    assert text_of(token) == "one"
    now += 0.2
    assert text_of(token) == "two"
    swap(file, "three")
    assert text_of(token) == "two"
    assert token.header(anew=True)[1] == "Bearer three"
