"""The tokens that callers present: how their file is written, and which of them is a caller's.

A line is `NAME: TOKEN`, or `NAME: sha256:HEX` with the token's SHA-256 in place of it, and may end
in ` models=A,B`: the only models that the token may use. A name may have several tokens, so that
one can follow another. `#` begins a line that says nothing to the server. Errors name a line by its
number, and repeat nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from hmac import compare_digest
from secrets import token_bytes

from ..errors import UnusableFile

MIN_TOKEN_CHARACTERS = 32
_MAX_TOKENS = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,99}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # what RFC 6750 allows behind `Bearer`
_DIGEST = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_MODELS = "models="


@dataclass(frozen=True, slots=True)
class Token:
    """A token that lets its holder in, under a name: its SHA-256, not itself."""

    name: str
    digest: bytes = field(repr=False)
    models: frozenset[str] | None = None  # those that it may use; None: all

    def covers(self, other: Token) -> bool:
        """Whether this one may use every model that `other` may."""
        if self.models is None:
            return True
        return other.models is not None and other.models <= self.models


_NO_TOKEN = Token("", bytes(32))  # compared where none is found


class Tokens:
    """All tokens of a file.

    They are found by a hash under a key of this object's own, which nobody can know: so the time
    tells nothing of how near a guess is, and does not grow with their number.
    """

    def __init__(self, tokens: Iterable[Token]):
        self._key = token_bytes(32)
        self._by_hash = {self._hash(token.digest): token for token in tokens}

    @property
    def names(self) -> frozenset[str]:
        """The names that callers with these tokens have."""
        return frozenset(token.name for token in self._by_hash.values())

    @property
    def log_values(self) -> dict[str, int]:
        """What the log says of the file: how many tokens it has, and callers with them."""
        return {"tokens": len(self._by_hash), "callers": len(self.names)}

    def find(self, presented: str) -> Token | None:
        """Find the token that a caller has presented, or None if it is none of these."""
        return self.find_digest(_digest(presented))

    def find_digest(self, digest: bytes) -> Token | None:
        """Find the token that has this SHA-256, or None."""
        found = self._by_hash.get(self._hash(digest), _NO_TOKEN)
        return found if compare_digest(found.digest, digest) else None

    def _hash(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self._key).digest()


def parse_tokens(data: bytes) -> Tokens:
    """Read the tokens of a file. Raises `UnusableFile`, with the number of the line."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UnusableFile("must be text in UTF-8") from None
    tokens: dict[bytes, Token] = {}
    numbers: dict[bytes, int] = {}  # of the lines
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        try:
            token = _parse_line(line)
        except ValueError as error:
            raise UnusableFile(f"line {number}: {error}") from None
        if token.digest in tokens:
            raise UnusableFile(f"line {number}: has the same token as line {numbers[token.digest]}")
        tokens[token.digest] = token
        numbers[token.digest] = number
    if not tokens:
        raise UnusableFile("must have a line NAME: TOKEN; without one nobody could call")
    if len(tokens) > _MAX_TOKENS:
        raise UnusableFile(f"must have at most {_MAX_TOKENS} tokens, got {len(tokens)}")
    return Tokens(tokens.values())


def _parse_line(line: str) -> Token:
    name, _, rest = line.partition(":")
    secret, *rights = rest.split() or [""]
    if not secret:
        raise ValueError("must be NAME: TOKEN, or NAME: sha256:HEX")
    if not _NAME.fullmatch(name.rstrip()):
        raise ValueError("the name must be of at most 100 letters, digits and . _ @ / -")
    return Token(name.rstrip(), _parse_secret(secret), _parse_rights(rights))


def _parse_secret(secret: str) -> bytes:
    if match := _DIGEST.fullmatch(secret):
        return bytes.fromhex(match[1])
    if secret.startswith("sha256:"):
        raise ValueError("behind sha256: there must be 64 hexadecimal digits")
    if not _TOKEN.fullmatch(secret):
        raise ValueError("the token must be of letters, digits and . _ ~ + / -, then = if any")
    if len(secret) < MIN_TOKEN_CHARACTERS:
        raise ValueError(
            f"the token must have at least {MIN_TOKEN_CHARACTERS} characters, "
            "as `openssl rand -hex 32` makes them"
        )
    return _digest(secret)


def _parse_rights(rights: list[str]) -> frozenset[str] | None:
    if not rights:
        return None
    if len(rights) > 1 or not rights[0].startswith(_MODELS):
        raise ValueError("behind the token there may be models=NAME,NAME and nothing else")
    models = frozenset(rights[0].removeprefix(_MODELS).split(","))
    if "" in models:
        raise ValueError("models= must have names, separated by commas")
    return models


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
