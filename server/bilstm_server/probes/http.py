"""The little of HTTP that probes need: a request without a body, and one reply to it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self
from urllib.parse import unquote


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Of the bytes up to the empty line. Raises `ValueError`."""
        line, *lines = data.decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError("no HTTP/1")
        path, _, query = target.partition("?")
        headers = (header.partition(":") for header in lines if header)
        return cls(method, unquote(path), query, {n.lower(): v.strip() for n, _, v in headers})


@dataclass(slots=True)
class Reply:
    status: HTTPStatus
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def words(cls, status: HTTPStatus, words: str = "") -> Self:
        text = (words or status.phrase.lower()) + "\n"
        return cls(status, text.encode(), [("Content-Type", "text/plain; charset=utf-8")])

    @classmethod
    def unauthorized(cls) -> Self:
        """What whoever has no token, or another one, is told; not which of these it is."""
        reply = cls.words(
            HTTPStatus.UNAUTHORIZED,
            "needs a token that is known here, as Authorization: Bearer TOKEN",
        )
        reply.headers.append(("WWW-Authenticate", "Bearer"))
        return reply

    @classmethod
    def html(cls, status: HTTPStatus, page: str) -> Self:
        """A page that may load nothing and run nothing."""
        security = ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        headers = [("Content-Type", "text/html; charset=utf-8"), security]
        return cls(status, page.encode(), headers)

    def encode(self, with_body: bool = True) -> bytes:
        headers = [*self.headers, ("Content-Length", len(self.body)), ("Connection", "close")]
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")
        return head + self.body if with_body else head
