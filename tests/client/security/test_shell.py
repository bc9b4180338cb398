"""The command `bilstm` over TLS, and with a token; neither is ever typed itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bilstm_client.cli.arguments import parse
from bilstm_client.cli.main import main
from tests.client.security.servers import Secured, World, secured
from tests.client.streams.sources import X
from tests.support.commands import run
from tests.support.fake_streams import sums


@pytest.fixture
def demanding(world: World) -> Iterator[Secured]:
    """A server of TLS that wants a client certificate, and the token `one`."""
    with secured(world.issue("encoder.example"), "one", client_ca=world.ca) as server:
        yield server


@pytest.fixture
def typed(demanding: Secured, world: World, tmp_path: Path) -> list[str]:
    """All that must be typed for it."""
    certificate, key = world.files(world.issue("shell"))
    (tmp_path / "token").write_text("one\n")
    return [
        *("--server", demanding.target, "--ca", str(world.ca), "--server-name", "encoder.example"),
        *("--client-certificate", str(certificate), "--client-key", str(key)),
        *("--token-file", str(tmp_path / "token")),
    ]


def test_flags(typed: list[str], demanding: Secured, capsys: pytest.CaptureFixture[str]) -> None:
    """The server is asked over TLS, with certificate and token, also where it is waited for."""
    for more in ([], ["--wait"]):
        assert main(["health", *typed, *more]) == 0
    assert capsys.readouterr().out == "ready\nready\n"
    assert set(demanding.tokens.seen) == {"Bearer one"}


def test_stream(typed: list[str], demanding: Secured, tmp_path: Path) -> None:
    """Files are encoded over it."""
    path = tmp_path / "x.npy"
    np.save(path, X)
    assert main(["encode", "--stream", *typed, str(path)]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.states.npy"), sums(X))


def test_environment(world: World) -> None:
    """A container's health check needs no flags: a process with both variables is let in."""
    with secured(world.issue("127.0.0.1"), "one") as server:
        said = {"BILSTM_CA": str(world.ca), "BILSTM_TOKEN": "one"}
        asked = run("bilstm", "health", "--server", server.target, **said)
        assert (asked.returncode, asked.stdout) == (0, "ready\n"), asked.stderr
        refused = run(
            "bilstm", "health", "--server", server.target, **(said | {"BILSTM_TOKEN": "s3cret"})
        )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "bilstm: UNAUTHENTICATED: the token is not known\n"


def test_trusted_by_the_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --tls alone the machine's own CAs are trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(world.ca))
    with secured(world.issue("127.0.0.1")) as server:
        assert main(["health", "--server", server.target, "--tls"]) == 0


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said of a command that fails."""
    assert main(["health", *arguments]) == 1
    said = capsys.readouterr()
    assert not said.out
    return said.err


def test_failures(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What makes no connection is a line."""
    none, (certificate, key) = tmp_path / "none", world.files(world.issue("shell"))
    token = tmp_path / "token"
    token.write_text("name: s3cret")
    remote = ("--server", "encoder.example")
    missing = f"bilstm: {none}: No such file or directory"
    assert failure(capsys, "--ca", str(none)) == f"{missing} (tls)\n"
    assert failure(capsys, "--ca", str(key)) == (
        f"bilstm: tls: {key}: must hold certificates, in PEM\n"
    )
    pair = ("--client-certificate", str(certificate), "--client-key", str(key))
    assert failure(capsys, *pair).startswith("bilstm: client_certificate: needs TLS: give tls=True")
    assert failure(capsys, "--token-file", str(none)) == f"{missing} (token)\n"
    assert failure(capsys, "--token-file", str(token)) == (
        f"bilstm: {token}: a token must be printable ASCII without spaces, in one line\n"
    )
    token.write_text("s3cret")
    said = failure(capsys, *remote, "--token-file", str(token))
    assert said.startswith("bilstm: token: is not sent to encoder.example:50051 without TLS: ")
    assert "--token-without-tls" in said
    with secured(world.issue("127.0.0.1", by_other=True)) as server:
        said = failure(capsys, "--wait", "--server", server.target, "--ca", str(world.ca))
        assert said.startswith(f"bilstm: the server at {server.target} is not trusted: its ")


@pytest.mark.parametrize("given", ["--client-certificate", "--client-key"])
def test_half_a_certificate(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Certificate and key come together."""
    other = {"--client-certificate": "--client-key", "--client-key": "--client-certificate"}[given]
    with pytest.raises(SystemExit, match="2"):
        parse(["models", given, os.devnull])
    assert f"argument {given}: needs {other}\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encode", "models", "health"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help has all that makes a connection; no token can be typed, as the list of
    processes would have it."""
    with pytest.raises(SystemExit, match="0"):
        parse([command, "--help"])
    said = capsys.readouterr().out
    for flag in ("--server", "--tls", "--ca", "--client-certificate", "--client-key"):
        assert f"  {flag} " in said
    for words in ("--server-name", "--token-file", "--token-without-tls", "BILSTM_TOKEN"):
        assert words in said
    with pytest.raises(SystemExit, match="2"):
        parse(["health", "--token", "s3cret"])
