"""Where a token comes from, which calls carry it, and where it is not sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bilstm_client import (
    Unauthenticated,
    Unavailable,
)
from tests.client.clients import Connect
from tests.client.connections.test_options import METHODS
from tests.client.security.calls import CALLS
from tests.client.security.servers import Secured, World, secured
from tests.client.streams.sources import X
from tests.support.waiting import HANGS_AFTER_SECONDS

# -- where they come from -----------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", ["str", "function", "file", "environment"])
def test_forms(
    form: str,
    call: str,
    world: World,
    asking: Secured,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token is given itself, by a function, in a file, or by BILSTM_TOKEN; each call has it."""
    file = tmp_path / "token"
    file.write_text("one\n")
    forms: dict[str, Any] = {"str": "one", "function": lambda: "one", "file": file}
    if form == "environment":
        monkeypatch.setenv("BILSTM_TOKEN", "one")
    CALLS[call](connect(asking.target, tls=world.ca, token=forms.get(form)))
    assert set(asking.tokens.seen) == {"Bearer one"}


@pytest.mark.parametrize("token", [None, ""])
def test_none(
    token: str | None, world: World, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token nothing is shown; an empty one is none, whatever the environment has."""
    monkeypatch.setenv("BILSTM_TOKEN", "" if token is None else "one")
    with secured(world.issue("127.0.0.1")) as server:
        connect(server.target, tls=world.ca, token=token).encode(X)
    assert server.tokens.seen == [""]


def test_metadata_takes_its_place(world: World, asking: Secured, connect: Connect) -> None:
    """Who sets `authorization` by hand sends that, and the token only where it is not set."""
    client = connect(asking.target, tls=world.ca, token="one")
    own = {"authorization": "Bearer two"}
    client.encode(X, metadata=own)
    list(client.encode_stream([X], metadata=own))
    client.encode(X, metadata={"x-team": "speech"})
    connect(asking.target, tls=world.ca, token="one", metadata=own).encode(X)
    assert asking.tokens.seen == ["Bearer two", "Bearer two", "Bearer one", "Bearer two"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, world: World, connect: Connect) -> None:
    """There is no method whose calls go without the token."""
    with secured(world.issue("127.0.0.1"), "other") as server:
        with pytest.raises(Unauthenticated):
            METHODS[method](connect(server.target, tls=world.ca, token="one"))
        assert set(server.tokens.seen) == {"Bearer one"}


# -- without TLS --------------------------------------------------------------------------------

ASKED_FOR = ("127.1", "2130706433", "localhost.", "some.localhost", "dns:///some.localhost")
REMOTE = ("encoder.example", "10.0.0.1:7", "ipv4:127.0.0.1,10.0.0.1", "dns:///encoder", "vsock:1:2")
LOCAL = (
    "LocalHost:7",
    "127.0.0.1:7",
    "[::1]",
    "unix:/run/x",
    "unix-abstract:x",
    "dns:///localhost",
)


@pytest.mark.parametrize("given", ["argument", "environment"])
@pytest.mark.parametrize("target", [*REMOTE, *ASKED_FOR, "dns://10.0.0.1/localhost"])
def test_not_sent_in_the_open(
    target: str, given: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that would leave this machine without TLS makes no client, unless it is said so."""
    options = {"token": "s3cret"}
    if given == "environment":
        monkeypatch.setenv("BILSTM_TOKEN", options.pop("token"))
    with pytest.raises(ValueError, match=r"is not sent to .* without TLS: give tls=True") as caught:
        connect(target, **options)
    assert str(caught.value).startswith("token: " if options else "BILSTM_TOKEN: ")
    assert "s3cret" not in str(caught.value)
    connect(target, token="s3cret", token_without_tls=True)
    connect(target, token="")


@pytest.mark.parametrize("target", LOCAL)
def test_stays_on_this_machine(target: str, connect: Connect) -> None:
    """On this machine, or over TLS, nothing has to be said."""
    connect(target, token="s3cret")
    connect("encoder.example", token="s3cret", tls=True)


def test_without_tls(connect: Connect) -> None:
    """A plain server is told who calls, where the way to it is safe."""
    with secured(None, "one") as server:
        connect(server.target, token="one", token_without_tls=True).encode(X)
    assert server.tokens.seen == ["Bearer one"]


def test_several(world: World, asking: Secured, connect: Connect) -> None:
    """Of several servers gRPC asks the health by itself, without a token: it must be open, which is
    said where it is not."""
    client = connect(f"dns:///{asking.target}", tls=world.ca, token="one")
    with pytest.raises(Unavailable, match=r"must tell it to all: bilstm-server --health open\)"):
        client.encode(X, timeout_seconds=0.5)
    asking.tokens.health_is_open = True
    client.wait_until_ready(HANGS_AFTER_SECONDS)
    client.encode(X)
    assert asking.tokens.seen[-1] == "Bearer one"


# -- what is none -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["s3cret\n", "s3c ret", "s3cr\u00e9t", " s3cret", "Bearer s3cret"])
def test_no_token(text: str, connect: Connect, tmp_path: Path) -> None:
    """What no header can carry is refused, by its file's name if it has one, and is not shown."""
    with pytest.raises(ValueError, match="printable ASCII without spaces, in one line") as caught:
        connect("localhost", token=text)
    assert "s3c" not in str(caught.value)
    file = tmp_path / "token"
    file.write_text(f"name: {text}")
    with pytest.raises(ValueError, match="in one line") as caught:
        connect("localhost", token=file)
    told = "a token must be printable ASCII without spaces, in one line"
    assert str(caught.value) == f"{file}: {told}"


def test_no_token_at_all(connect: Connect, tmp_path: Path) -> None:
    """What gives none is refused by its kind, or the file's name."""
    with pytest.raises(TypeError, match="token must be a str, a function or a Path, got bytes"):
        connect("localhost", token=b"s3cret")
    with pytest.raises(FileNotFoundError):
        connect("localhost", token=tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match=r"empty: a token must not be empty"):
        connect("localhost", token=tmp_path / "empty")
