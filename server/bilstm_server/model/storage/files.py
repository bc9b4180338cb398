"""Files that a user names: regular ones only, of a bounded size, read whole into memory.

Nothing that is served stays over a file: it may be written to, cut short or deleted at any time.
Every file that can't be read so raises a one-line `ModelError`.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...errors import ModelError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Version = tuple[int, int, int, int]  # device, inode, bytes, nanoseconds of the last change


@contextmanager
def open_regular(path: Path, most_bytes: int) -> Iterator[BinaryIO]:
    """Open a file, or what a link leads to. A pipe is not waited for.

    A file that has changed when the block ends, however it does, is refused too.
    """
    try:
        opened = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ModelError(f"{path}: {_reason(error)}") from error
    with opened as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise ModelError(f"{path}: is {kind}, not a file")
        if status.st_size > most_bytes:
            raise ModelError(
                f"{path}: is too large: {status.st_size:,} bytes, expected at most {most_bytes:,}"
            )
        try:
            yield file
        finally:
            if _version(os.fstat(file.fileno())) != _version(status):
                raise changed(path)


def read_whole(path: Path, most_bytes: int) -> tuple[bytes, Version]:
    """Read what a file holds at one moment, and which version of it this is."""
    with open_regular(path, most_bytes) as file:
        before = os.fstat(file.fileno())
        try:
            content = file.read(before.st_size + 1)
        except OSError as error:
            raise ModelError(f"{path}: {_reason(error)}") from error
        except MemoryError as error:
            raise ModelError(f"{path}: does not fit into memory") from error
        if len(content) != before.st_size:
            raise changed(path)
    return content, _version(before)


def is_still(path: Path, version: Version) -> bool:
    """Whether a file was neither written to nor replaced since."""
    try:
        return _version(os.stat(path)) == version
    except OSError:
        return False


def changed(path: Path) -> ModelError:
    """The error for a file that was changed while it was read."""
    return ModelError(f"{path}: was changed while it was read; try again once it is written")


def memory_bytes() -> int:
    """The memory of this machine: more than any file's tensors may take."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def members(file: BinaryIO, path: Path) -> list[zipfile.ZipInfo]:
    """Read the directory of a zip archive. The file is left at its beginning."""
    try:
        return zipfile.ZipFile(file).infolist()
    except Exception as error:  # of many types, whatever the damage
        raise ModelError(f"{path}: is no readable archive ({error})") from error
    finally:
        file.seek(0)


def unpacked_bytes(archive: Iterable[zipfile.ZipInfo]) -> int:
    """The bytes that an archive's members take, by its directory. Readers read no more of them."""
    return sum(member.file_size for member in archive)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _version(status: os.stat_result) -> Version:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    return error.strerror or type(error).__name__
