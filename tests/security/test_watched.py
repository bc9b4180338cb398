"""Files that change, in all the ways in which files do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bilstm_server.errors import UnusableFile
from bilstm_server.security.watched import Watched
from tests.security.files import in_place, renamed, swapped_folder


class Counts:
    def __init__(self) -> None:
        self.accepts = self.refusals = 0

    def accepted(self) -> None:
        self.accepts += 1

    def refused(self) -> None:
        self.refusals += 1


class Number(int):
    @property
    def log_values(self) -> dict[str, int]:
        return {"number": self}


def number(data: bytes) -> Number:
    if not data.isdigit():
        raise UnusableFile("must be a number")
    return Number(data)


@pytest.mark.parametrize("write", [in_place, renamed, swapped_folder])
def test_every_change_is_seen(tmp_path: Path, write: Callable[[Path, bytes], None]) -> None:
    """However a file is changed, it is found, and the log says what is in effect then; without a
    change there is nothing new."""
    path, counts = tmp_path / "file", Counts()
    write(path, b"0")
    watched = Watched("--file", [path], number, counts)
    for value in range(1, 10):
        write(path, b"%d" % value)
        assert not watched.check()
        with capture_logs() as logged:
            assert watched.check()
        assert watched.value == value
        (line,) = logged
        assert (line["event"], line["setting"], line["number"]) == ("reloaded", "--file", value)
        assert not watched.check()
    assert (counts.accepts, counts.refusals) == (10, 0)


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """What can't be used is said once, and what was there stays, until the file is good again."""
    path, counts = tmp_path / "file", Counts()
    path.write_bytes(b"1")
    watched = Watched("--file", [path], number, counts)
    for broken in (lambda: path.write_bytes(b"x"), path.unlink, path.mkdir):
        broken()
        with capture_logs() as logged:
            assert not any(watched.check() for _ in range(4))
        assert watched.value == 1
        (line,) = logged
        assert (line["event"], line["log_level"]) == ("not reloaded", "error")
        assert line["reason"].startswith(f"--file: {path}: ")
    assert counts.refusals == 3
    path.rmdir()
    path.write_bytes(b"2")
    assert watched.check(patient=False)
    assert watched.value == 2


def test_looks_leave_nothing_open(tmp_path: Path) -> None:
    """However often a folder is found where a file should be, no descriptor stays open."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    watched = Watched("--file", [path], number)
    path.unlink()
    path.mkdir()
    watched.check()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        watched.check()
    assert len(os.listdir("/proc/self/fd")) < before + 50


def test_half_a_file_is_not_used(tmp_path: Path) -> None:
    """A file that is found half written, and could be used as it is, is not: tokens would be gone
    for a moment, and streams end. The operator's own look takes it as it is."""
    path, counts = tmp_path / "file", Counts()
    path.write_bytes(b"1")
    watched = Watched("--file", [path], number, counts)
    for growing in (b"2", b"23", b"234"):
        path.write_bytes(growing)
        assert not watched.check()
        assert watched.value == 1
    assert watched.check()
    assert (watched.value, counts.accepts) == (234, 2)
    path.write_bytes(b"5")
    assert watched.check(patient=False)


def test_two_files_that_are_being_written(tmp_path: Path) -> None:
    """Two files that change one after the other are no fault, unless they stay so, or the operator
    has asked for a look."""
    first, second, counts = tmp_path / "first", tmp_path / "second", Counts()
    first.write_bytes(b"1")
    second.write_bytes(b"1")

    def same(one: bytes, other: bytes) -> Number:
        if one != other:
            raise UnusableFile("must be the same")
        return number(one)

    watched = Watched("--first, --second", [first, second], same, counts)
    first.write_bytes(b"2")
    assert not watched.check()
    second.write_bytes(b"2")
    assert not watched.check()
    assert watched.check()
    assert counts.refusals == 0
    first.write_bytes(b"3")
    assert not watched.check(patient=False)
    assert counts.refusals == 1


def test_a_bad_file_at_the_start(tmp_path: Path) -> None:
    """At the start there is nothing to keep, so it is an error that names the flag and the file."""
    path = tmp_path / "file"
    with pytest.raises(UnusableFile, match=f"--file: {path}: No such file"):
        Watched("--file", [path], number)
    path.write_bytes(b"x")
    with pytest.raises(UnusableFile, match=f"--file: {path}: must be a number"):
        Watched("--file", [path], number)


def test_files_that_do_not_end(tmp_path: Path) -> None:
    """A pipe, or a device, keeps nobody waiting."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for endless in (path, Path("/dev/zero")):
        with pytest.raises(UnusableFile, match=r"must be a number|at most"):
            Watched("--file", [endless], number)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o602, 1)])
def test_a_secret_file_that_others_may_open(tmp_path: Path, mode: int, warnings: int) -> None:
    """A secret that everybody on the machine may read, or change, is told of; it is used."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    path.chmod(mode)
    with capture_logs() as logged:
        assert Watched("--file", [path], number, secrets=[path]).value == 1
    assert [line["log_level"] for line in logged] == ["warning"] * warnings
