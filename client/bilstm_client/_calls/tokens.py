"""`Token`: what a client shows of itself with each call, from where the caller keeps it. It stands
in no error, log or repr.
"""

from __future__ import annotations

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from ..errors import Unauthenticated
from ..types import TokenFrom
from .metadata import AUTHORIZATION, Header
from .named_files import named
from .target import Target

VARIABLE = "BILSTM_TOKEN"
_PRINTABLE = re.compile(r"[!-~]+")
_LOOK_SECONDS = 1.0  # a look at a file costs a twentieth of a call, and on some systems much more


class Secret(str):
    """A header's value that is not shown where variables are, as with a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class Token(ABC):
    """A token that may change while it is used. Threads may share it."""

    def __init__(self) -> None:
        self._known: tuple[str, Header] = ("", (AUTHORIZATION, Secret()))

    def header(self, *, anew: bool = False) -> Header:
        """The header with the newest token, or with one that may be a second old unless it is to be
        had `anew`. Raises `Unauthenticated` where none can be had."""
        text = self._newest(anew)
        known, header = self._known
        if text != known:
            header = (AUTHORIZATION, Secret(f"Bearer {checked(text)}"))
            self._known = (text, header)
        return header

    @abstractmethod
    def _newest(self, anew: bool) -> str:
        """The token, as `header` is to have it."""


class FixedToken(Token):
    """A token that was given itself."""

    def __init__(self, text: str):
        super().__init__()
        self._text = checked(text)

    def _newest(self, anew: bool) -> str:
        return self._text


class CalledToken(Token):
    """A token that a function of the caller's returns."""

    def __init__(self, function: Callable[[], Any]):
        super().__init__()
        self._function = function

    def _newest(self, anew: bool) -> str:
        try:
            return checked(self._function())
        except Exception as error:
            # What the function raises may hold a secret of its own, and so stays the cause.
            code, kind = grpc.StatusCode.UNAUTHENTICATED, type(error).__name__
            reason = str(error) if isinstance(error, NotAToken) else f"it raised {kind}"
            raise Unauthenticated(code, f"no token could be had: token(): {reason}") from error


class FileToken(Token):
    """A token in a file, which is read anew when it has changed: written to, or replaced, also by
    way of a link. While it can't be read, or holds no token, the one before stays.
    """

    def __init__(self, path: os.PathLike[str]):
        """Raises `OSError` or `ValueError` where there is no token yet."""
        super().__init__()
        self._path = Path(path)
        self._read_as = self._stat(), self._read()  # in one, as threads share them
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def _newest(self, anew: bool) -> str:
        now = time.monotonic()
        if anew or now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            with suppress(OSError, NotAToken):  # it is being written, or gone
                stamp = self._stat()
                if stamp != self._read_as[0]:
                    self._read_as = stamp, self._read()
        return self._read_as[1]

    def _stat(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> str:
        try:
            return checked(self._path.read_text("latin-1").strip())  # any bytes are text
        except NotAToken as error:
            raise NotAToken(f"{self._path}: {error}") from None


class NotAToken(ValueError):
    """What is no token, without showing what it is."""


def token_of(
    given: TokenFrom | None,
    target: Target,
    *,
    is_private: bool,
    environment: Mapping[str, str] = os.environ,
) -> Token | None:
    """The token that calls to the target are to carry; None: they carry none. `given`: None for the
    environment's, "" for none. `is_private`: whether it may be sent at all.

    Raises `TypeError` for what gives no token, `ValueError` for a token that can't be sent, and
    `OSError` for a file that can't be read."""
    name = "token" if given is not None else VARIABLE
    given = environment.get(VARIABLE, "") if given is None else given
    if given == "":
        return None
    if not is_private:
        raise ValueError(
            f"{name}: is not sent to {target.name} without TLS: give tls=True (--tls) or the CA's "
            "file, or token_without_tls=True (--token-without-tls)"
        )
    if isinstance(given, str):
        if os.path.isfile(given):
            raise ValueError(
                f"{name}: is the name of a file: for the token in it give token=Path(…) "
                "(--token-file)"
            )
        try:
            return FixedToken(given)
        except NotAToken as error:
            raise NotAToken(f"{name}: {error}") from None
    if isinstance(given, os.PathLike):
        with named(name):
            return FileToken(given)
    if callable(given):
        return CalledToken(given)
    kind = type(given).__name__
    raise TypeError(f"token must be a str, a function or a Path, got {kind}")


def checked(token: Any) -> str:
    """The token, if it is one."""
    if not isinstance(token, str):
        raise NotAToken(f"a token must be a str, got {type(token).__name__}")
    if not token:
        raise NotAToken("a token must not be empty")
    if not _PRINTABLE.fullmatch(token):
        raise NotAToken("a token must be printable ASCII without spaces, in one line")
    return token
