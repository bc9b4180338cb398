"""How a file of tokens is read, and which token is whose."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.errors import UnusableFile
from bilstm_server.security.tokens import MIN_TOKEN_CHARACTERS, Token, Tokens, parse_tokens
from tests.security.authority import OTHER_TOKEN, TOKEN

DIGEST = sha256(OTHER_TOKEN.encode()).hexdigest()


def found(text: str, presented: str) -> Token | None:
    return parse_tokens(text.encode()).find(presented)


def test_a_file_of_all_forms() -> None:
    """A name may have several tokens, in the clear or by their SHA-256, each with its rights."""
    text = f"\ufeff# apps\n\nsearch: {TOKEN}\n  search : sha256:{DIGEST.upper()}  models=a,b \n"
    tokens = parse_tokens(text.encode())
    assert tokens.names == {"search"}
    assert tokens.log_values == {"tokens": 2, "callers": 1}
    first, second = tokens.find(TOKEN), tokens.find(OTHER_TOKEN)
    assert first is not None
    assert (first.name, first.models) == ("search", None)
    assert second is not None
    assert (second.name, second.models) == ("search", frozenset("ab"))


@given(st.text())
def test_nothing_else_lets_in(presented: str) -> None:
    """What is not exactly a token of the file finds none: not its digest, not a part of it."""
    tokens = parse_tokens(f"search: {TOKEN}\nbulk: sha256:{DIGEST}".encode())
    for wrong in (presented, TOKEN + presented, TOKEN[:-1], f"sha256:{DIGEST}", DIGEST, ""):
        assert (tokens.find(wrong) is None) == (wrong not in (TOKEN, OTHER_TOKEN))


LONG = "x" * MIN_TOKEN_CHARACTERS


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (TOKEN, "must be NAME: TOKEN"),
        ("search:", "must be NAME: TOKEN"),
        (f": {TOKEN}", "the name must be"),
        (f"two words: {TOKEN}", "the name must be"),
        (f"a=b: {TOKEN}", "the name must be"),
        (f"a,b: {TOKEN}", "the name must be"),
        (f"{'a' * 101}: {TOKEN}", "the name must be"),
        (f"search: {LONG[1:]}", "at least 32 characters"),
        (f"{TOKEN}: search", "at least 32 characters"),
        (f"search: {LONG}ü", "must be of letters"),
        (f"search: {LONG}=a", "must be of letters"),
        (f"search: sha256:{DIGEST[1:]}", "64 hexadecimal digits"),
        (f"search: sha256:{TOKEN}", "64 hexadecimal digits"),
        (f"search: {TOKEN} {LONG}", "models="),
        (f"search: {TOKEN} models=a models=b", "models="),
        (f"search: {TOKEN} models=", "must have names"),
        (f"search: {TOKEN} models=a,,b", "must have names"),
        (f"bulk: sha256:{DIGEST}", "has the same token as line 1"),
        (f"bulk: {OTHER_TOKEN}", "has the same token as line 1"),
    ],
)
def test_a_bad_line_is_named_and_not_shown(line: str, problem: str) -> None:
    """An error says which line, and what must be there; no word of the line is in it."""
    with pytest.raises(UnusableFile) as refusal:
        parse_tokens(f"first: {OTHER_TOKEN}\n# of one app\n{line}\n".encode())
    message = str(refusal.value)
    assert message.startswith("line 3: ")
    assert problem in message
    for secret in (TOKEN, OTHER_TOKEN, LONG[1:], DIGEST[1:]):
        assert secret not in message


@pytest.mark.parametrize("data", [b"", b"# none yet\n", b"\xff\xfe"])
def test_a_file_without_tokens(data: bytes) -> None:
    """A file that lets nobody in is refused, as it is most likely one that was emptied."""
    with pytest.raises(UnusableFile, match=r"NAME: TOKEN|UTF-8"):
        parse_tokens(data)


def test_too_many_tokens() -> None:
    """A file of more tokens than any server has callers is some other file."""
    lines = "".join(f"app{n}: {n:032}\n" for n in range(10_001))
    with pytest.raises(UnusableFile, match="at most 10000 tokens, got 10001"):
        parse_tokens(lines.encode())


def test_nothing_is_told_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, nearly right or wrong: one comparison of whole hashes in constant time, of what was
    looked up under a key that no other object has."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("bilstm_server.security.tokens.compare_digest", compare)
    file = f"a: {TOKEN}\nb: {OTHER_TOKEN}\nc: {LONG}".encode()
    tokens = parse_tokens(file)
    for presented in (TOKEN, OTHER_TOKEN, LONG, TOKEN[:-1] + "2", "wrong"):
        compared.clear()
        tokens.find(presented)
        assert [(len(a), len(b)) for a, b in compared] == [(32, 32)]
    digest = sha256(TOKEN.encode()).digest()
    assert tokens._hash(digest) != parse_tokens(file)._hash(digest) != digest


def test_what_a_token_covers() -> None:
    """A right that is lost is known from one that is gained."""
    everything = Token("a", b"", None)
    two, one = Token("a", b"", frozenset("xy")), Token("a", b"", frozenset("x"))
    assert everything.covers(two)
    assert two.covers(one)
    assert not one.covers(two)
    assert not two.covers(everything)


def test_nothing_is_shown() -> None:
    """Neither a token nor its digest is in what is printed of either."""
    tokens: Tokens = parse_tokens(f"search: {TOKEN}".encode())
    shown = f"{tokens!r} {tokens.find(TOKEN)!r}"
    assert TOKEN not in shown
    assert repr(sha256(TOKEN.encode()).digest())[2:-1] not in shown
