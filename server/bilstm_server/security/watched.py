"""`Watched`: what files say, kept up to date while they are changed, replaced or broken.

Files are compared by what they hold: so it does not matter whether one is written, renamed into its
place, or swapped with the folder that a link names, as Kubernetes does it. A file may be half
written, and of two that belong together one may be old still, so what is new is given one more look
before it counts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import structlog

from ..errors import UnusableFile

log = structlog.get_logger()

_OTHERS = stat.S_IROTH | stat.S_IWOTH
_MAX_BYTES = 4 * 1024**2  # of one file


class InEffect(Protocol):
    """What files hold, as it is used."""

    @property
    def log_values(self) -> Mapping[str, object]:
        """What the log says of it: nothing that is secret."""
        ...


T = TypeVar("T", bound=InEffect)


class ReloadObserver(Protocol):
    """Counts what becomes of files."""

    def accepted(self) -> None:
        """What the files hold is in effect."""
        ...

    def refused(self) -> None:
        """What the files hold can't be used; what was in effect stays."""
        ...


class Watched(Generic[T]):
    """What some files hold, as `parse` makes it of their bytes.

    `value` is in effect. One thread at a time calls `check`; any may read `value`.
    """

    def __init__(
        self,
        flags: str,
        paths: Sequence[Path],
        parse: Callable[..., T],
        observer: ReloadObserver | None = None,
        *,
        secrets: Sequence[Path] = (),
    ):
        """Read the files, which the settings of `flags` name. `parse` is given the bytes of each,
        and raises `UnusableFile`, as this does then, and where a file can't be read. The log
        tells, once, of those of them that are `secrets` and that everybody may open."""
        self.flags = flags
        self._paths = tuple(paths)
        self._parse = parse
        self._observer = observer
        self._found: tuple[object, str] | None = None  # by the last look
        self._reported: tuple[object, str] | None = None  # as what can't be used
        self._contents = self._read()  # those in effect
        self.value = self._parsed(self._contents)
        if observer is not None:
            observer.accepted()
        for path in secrets:
            self._warn_of_others(path)

    def check(self, *, patient: bool = True) -> bool:
        """Look at the files, and put what is new in them into effect. Returns whether it did.

        What is new counts when a second look finds the same; at once unless `patient`. What can't
        be used changes nothing: it is logged and counted, once.
        """
        contents, problem = found = self._look()
        settled, self._found = found == self._found, found
        if contents == self._contents:
            if self._reported is not None:  # it holds again what is in effect
                self._accept()
            return False
        if patient and not settled:
            return False
        if contents is not None:
            try:
                self.value, self._contents = self._parsed(contents), contents
            except UnusableFile as error:
                problem = str(error)
            else:
                self._accept()
                return True
        self._refuse(contents, problem)
        return False

    def _look(self) -> tuple[tuple[bytes, ...] | None, str]:
        """What the files hold, or None and why they can't be read."""
        try:
            return self._read(), ""
        except UnusableFile as error:
            return None, str(error)

    def _accept(self) -> None:
        self._reported = None
        if self._observer is not None:
            self._observer.accepted()
        log.info("reloaded", setting=self.flags, **self.value.log_values)

    def _refuse(self, contents: object, problem: str) -> None:
        if self._reported == (contents, problem):
            return
        self._reported = contents, problem
        if self._observer is not None:
            self._observer.refused()
        log.error("not reloaded", setting=self.flags, reason=problem, in_effect="what was before")

    def _read(self) -> tuple[bytes, ...]:
        return tuple(self._bytes(path) for path in self._paths)

    def _bytes(self, path: Path) -> bytes:
        try:
            with open(path, "rb", opener=_open_at_once) as file:
                data = file.read(_MAX_BYTES + 1) or b""
        except OSError as error:
            raise UnusableFile(f"{self.flags}: {path}: {error.strerror}") from error
        if len(data) > _MAX_BYTES:
            raise UnusableFile(f"{self.flags}: {path}: must have at most {_MAX_BYTES} bytes")
        return data

    def _warn_of_others(self, path: Path) -> None:
        if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
            log.warning(
                "everybody on this machine may read or write a secret file",
                setting=self.flags,
                file=str(path),
                reason="its mode should be 0600, or 0640 where a group reads it",
            )

    def _parsed(self, contents: tuple[bytes, ...]) -> T:
        try:
            return self._parse(*contents)
        except UnusableFile as error:
            paths = ", ".join(map(str, self._paths))
            raise UnusableFile(f"{self.flags}: {paths}: {error}") from None


def _open_at_once(path: str, flags: int) -> int:
    """Something that is no file, a pipe say, must not keep the server waiting."""
    return os.open(path, flags | os.O_NONBLOCK)
