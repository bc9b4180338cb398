"""Under which name a call is known, and how urgent it may be."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import grpc
import pytest

from bilstm_server.callers import Caller, Priority
from tests.rpc.security.callers import (
    OWN_CONNECTION,
    Metadata,
    bearer,
    encode_outcome,
    plain_channel,
    running,
    secure_channel,
    write_tokens,
)
from tests.rpc.security.conftest import Configure, Seen
from tests.security.authority import TOKEN, Authority

OK = grpc.StatusCode.OK


async def test_a_token_names_its_caller(configure: Configure, tmp_path: Path, seen: Seen) -> None:
    """Behind a token stands the name that the file has for it, whatever else is there."""
    tokens = write_tokens(tmp_path / "tokens", f"search: {TOKEN} models=small")
    async with running(configure(tokens_file=tokens, caller_header="x-caller")) as app:
        metadata = (*bearer(TOKEN), ("x-caller", "somebody"))
        assert await encode_outcome(plain_channel(app), metadata) is OK
    caller = Caller("search", "token", Priority.NORMAL, frozenset({"small"}))
    assert seen == [(caller, Priority.NORMAL)]


@pytest.mark.parametrize(
    ("names", "common_name", "expected"),
    [
        (["app.example"], "search app", "search app"),
        (["app.example", "other.example"], None, "app.example"),
        (["app.example"], "line\nbreak", "line\\nbreak"),
        (["app.example"], "app\0.example.org", "app\\x00.example.org"),
        (["app.example"], " app ", " app "),
        (["app.example"], " ", "app.example"),
        (["192.0.2.7"], None, "192.0.2.7"),
        (["app.example"], "n" * 64, "n" * 64),
    ],
)
async def test_a_certificate_names_its_caller(
    names: list[str],
    common_name: str | None,
    expected: str,
    with_tls: Configure,
    authority: Authority,
    tmp_path: Path,
    seen: Seen,
) -> None:
    """Without tokens the caller is whom its certificate names, in one printable line."""
    callers = Authority(tmp_path, "callers")
    own = callers.issue(*names, common_name=common_name)
    async with running(with_tls(tls_client_ca=callers.path)) as app:
        assert await encode_outcome(secure_channel(app, authority, own)) is OK
    assert seen == [(Caller(expected, "certificate"), Priority.NORMAL)]


async def test_token_and_certificate(
    with_tls: Configure, authority: Authority, tmp_path: Path, seen: Seen
) -> None:
    """Where both are asked for, a call needs both, and the token says whose it is."""
    callers = Authority(tmp_path, "callers")
    tokens = write_tokens(tmp_path / "tokens", f"search: {TOKEN}")
    own = callers.issue("app.example")
    async with running(with_tls(tls_client_ca=callers.path, tokens_file=tokens)) as app:
        for certificate, metadata, expected in (
            (own, bearer(TOKEN), OK),
            (own, (), grpc.StatusCode.UNAUTHENTICATED),
            (None, bearer(TOKEN), grpc.StatusCode.UNAVAILABLE),
        ):
            channel = secure_channel(app, authority, certificate)
            assert await encode_outcome(channel, metadata) is expected
    assert [caller.name for caller, _ in seen] == ["search"]


@pytest.mark.parametrize(
    ("header", "metadata", "expected"),
    [
        ("", (("x-forwarded-for", "10.0.0.1"),), "127.0.0.1"),
        ("X-Forwarded-For", (("x-forwarded-for", "10.0.0.1"),), "10.0.0.1"),
        ("x-forwarded-for", (("x-forwarded-for", "forged, 10.0.0.1"),), "10.0.0.1"),
        (
            "x-forwarded-for",
            (
                ("x-forwarded-for", "forged"),
                ("x-forwarded-for", "b"),
            ),
            "b",
        ),
        ("x-forwarded-for", (("x-forwarded-for", "a, "),), "127.0.0.1"),
        ("x-forwarded-for", (), "127.0.0.1"),
        (
            "x-forwarded-for",
            (("x-forwarded-for", "n" * 1000),),
            f"{'n' * 67}…{sha256(b'n' * 1000).hexdigest()[:32]}",
        ),
    ],
)
async def test_a_proxy_names_the_caller(
    header: str, metadata: Metadata, expected: str, configure: Configure, seen: Seen
) -> None:
    """A header names the caller only where the operator trusts it, and by its last part: what
    stands before, the caller may have written."""
    async with running(configure(caller_header=header)) as app:
        assert await encode_outcome(plain_channel(app), metadata) is OK
    assert seen == [(Caller(expected, "peer"), Priority.NORMAL)]


async def test_a_header_names_nobody_who_has_a_certificate(
    with_tls: Configure, authority: Authority, callers: Authority, seen: Seen
) -> None:
    """Also where the certificate has no name: the caller could write any."""
    nameless = callers.issue_nameless()
    async with running(with_tls(tls_client_ca=callers.path, caller_header="x-caller")) as app:
        channel = secure_channel(app, authority, nameless)
        assert await encode_outcome(channel, (("x-caller", "forged"),)) is OK
    assert seen == [(Caller("127.0.0.1", "peer"), Priority.NORMAL)]


async def test_addresses_without_ports(configure: Configure, tmp_path: Path, seen: Seen) -> None:
    """Connections of one address are one caller's, as are all of a Unix socket."""
    async with running(configure()) as app:
        for _ in range(2):
            assert await encode_outcome(plain_channel(app)) is OK
    target = f"unix:{tmp_path}/socket"
    async with running(configure(host=target)):
        channel = grpc.aio.insecure_channel(target, options=[OWN_CONNECTION])
        assert await encode_outcome(channel) is OK
    assert [caller.name for caller, _ in seen] == ["127.0.0.1", "127.0.0.1", "unix"]


@pytest.mark.parametrize(
    ("name", "asked", "granted"),
    [
        ("urgent", "high", Priority.HIGH),
        ("urgent", "low", Priority.LOW),
        ("other", "high", Priority.NORMAL),
        ("other", "low", Priority.LOW),
        ("modest", "normal", Priority.LOW),
        ("modest", "high", Priority.LOW),
    ],
)
async def test_priorities_are_granted(
    name: str, asked: str, granted: Priority, configure: Configure, tmp_path: Path, seen: Seen
) -> None:
    """A call is as urgent as it asks to be, and no more than its caller may; that is no error."""
    tokens = write_tokens(tmp_path / "tokens", f"{name}: {TOKEN}")
    given = "urgent=high,modest=low"
    async with running(configure(tokens_file=tokens, caller_priority=given)) as app:
        metadata = (*bearer(TOKEN), ("bilstm-priority", asked))
        assert await encode_outcome(plain_channel(app), metadata) is OK
    assert [priority for _, priority in seen] == [granted]
