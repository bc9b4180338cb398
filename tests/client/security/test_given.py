"""What makes no secure connection: it is refused as the client is made, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.client.clients import Connect
from tests.client.security.servers import World


def test_given_wrongly(world: World, connect: Connect, tmp_path: Path) -> None:
    """What makes no secure connection is refused as the client is made, by its name, in words."""
    certificate, key = world.files(world.issue("app"))
    _, other_key = world.files(world.issue("other"))
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN PRIVATE KEY-----\njunk\n-----END PRIVATE KEY-----\n")
    locked = tmp_path / "locked.pem"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED")
    in_pem = "must hold certificates, in PEM"
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"tls": junk}, ValueError, f"tls: {junk}: {in_pem}"),
        ({"tls": b"junk"}, ValueError, f"tls: {in_pem}"),
        ({"tls": b""}, ValueError, f"tls: {in_pem}"),
        ({"tls": 7}, TypeError, "tls must be True, False, a CA's file, or its bytes in PEM, got"),
        ({"tls": tmp_path / "none"}, FileNotFoundError, "No such file or directory (tls)"),
        ({"token": tmp_path / "none"}, FileNotFoundError, "No such file or directory (token)"),
        ({"token": str(junk)}, ValueError, "token: is the name of a file: for the token in it"),
        (
            {"tls": True, "client_certificate": (certificate, tmp_path / "none")},
            FileNotFoundError,
            "No such file or directory (client_certificate)",
        ),
        (
            {"tls": True, "client_certificate": (certificate, other_key)},
            ValueError,
            f"client_certificate: {other_key}: is not {certificate}'s key",
        ),
        (
            {"tls": True, "client_certificate": (certificate, certificate)},
            ValueError,
            f"client_certificate: {certificate}: must hold a private key, in PEM",
        ),
        (
            {"tls": True, "client_certificate": (key, key)},
            ValueError,
            f"client_certificate: {key}: {in_pem}",
        ),
        (
            {"tls": True, "client_certificate": (certificate, junk)},
            ValueError,
            f"client_certificate: {junk}: must hold a private key, in PEM",
        ),
        (
            {"tls": True, "client_certificate": (certificate, locked)},
            ValueError,
            f"client_certificate: {locked}: must be a key without a password",
        ),
        (
            {"tls": True, "client_certificate": certificate},
            TypeError,
            "client_certificate must be two files, certificate and key, got PosixPath",
        ),
        (
            {"client_certificate": (certificate, key)},
            ValueError,
            "client_certificate: needs TLS: give tls=True (--tls) or the CA's file",
        ),
        ({"server_name": "x", "tls": False}, ValueError, "server_name: needs TLS"),
    ]
    for options, kind, words in cases:
        with pytest.raises(kind) as caught:
            connect("localhost", **options)
        assert words in str(caught.value), options


def test_several_need_a_name(world: World, connect: Connect) -> None:
    """A list of addresses has no name that certificates could be for."""
    with pytest.raises(ValueError, match=r"give it as server_name \(--server-name\)"):
        connect("ipv4:127.0.0.1,127.0.0.2", tls=world.ca)


def test_damaged_ca_of_the_environment(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is named, as that is what must be mended."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    monkeypatch.setenv("BILSTM_CA", str(junk))
    with pytest.raises(ValueError, match=rf"^BILSTM_CA: {junk}: must hold certificates"):
        connect("localhost")
