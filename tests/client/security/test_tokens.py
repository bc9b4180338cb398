"""Tokens: where they come from, what carries them, when they are read anew, and that nothing else
ever shows one.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from bilstm_client import (
    AsyncClient,
    Client,
    EncoderError,
    NotTrusted,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from bilstm_client._calls import tokens
from bilstm_client._calls.metadata import AUTHORIZATION
from bilstm_client._calls.tokens import FileToken
from tests.client.clients import AnyClient, Connect
from tests.client.connections.test_options import METHODS
from tests.client.security.servers import Secured, World, secured
from tests.client.streams.sources import X, assert_states
from tests.support.fake_streams import Break, sums
from tests.support.waiting import HANGS_AFTER_SECONDS

CALLS: dict[str, Callable[[AnyClient], Any]] = {
    "encode": lambda client: client.encode(X),
    "encode_stream": lambda client: list(client.encode_stream([X])),
    "is_ready": lambda client: client.is_ready(),
    "wait_until_ready": lambda client: client.wait_until_ready(5),
}


@pytest.fixture
def asking(world: World) -> Iterator[Secured]:
    """A server that knows the tokens `one` and `two`."""
    with secured(world.issue("127.0.0.1"), "one", "two") as server:
        yield server


def read_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at for each call."""
    monkeypatch.setattr(tokens, "_LOOK_SECONDS", 0.0)


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

REMOTE = ("encoder.example", "10.0.0.1:7", "ipv4:127.0.0.1,10.0.0.1", "dns:///encoder", "vsock:1:2")
LOCAL = ("localhost", "127.0.0.1:7", "[::1]", "unix:/run/x", "unix-abstract:x", "dns:///localhost")


@pytest.mark.parametrize("given", ["argument", "environment"])
@pytest.mark.parametrize("target", [*REMOTE, "dns://10.0.0.1/localhost"])
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


# -- what changes -------------------------------------------------------------------------------


def swap(path: Path, text: str) -> None:
    """Replace what the file is, as is done to one that is read meanwhile."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def text_of(token: FileToken) -> str:
    name, value = token.header()
    assert name == AUTHORIZATION
    return str(value).removeprefix("Bearer ")


@pytest.mark.parametrize("way", ["written", "replaced", "linked"])
def test_file_changes(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read anew when it is written to or replaced, or when a link on its way is, as
    Kubernetes does; also where size and time stay the same."""
    read_always(monkeypatch)
    file = tmp_path / "token"
    if way == "linked":
        for version in ("one", "two"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "token").write_text(version)
        (tmp_path / "data").symlink_to("one")
        file.symlink_to("data/token")
    else:
        file.write_text("one")
    token = FileToken(file)
    assert text_of(token) == "one"
    before = file.stat()
    if way == "written":
        file.write_text("three")
        assert text_of(token) == "three"
    elif way == "replaced":
        swap(file, "two")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert text_of(token) == "two"
    else:
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "data")
        assert text_of(token) == "two"


@pytest.mark.parametrize("damage", ["gone", "empty", "wrong", "a folder"])
def test_file_that_can_not_be_read_anew(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is damaged the token stays that was in it, and the next good one is taken."""
    read_always(monkeypatch)
    file = tmp_path / "token"
    file.write_text("one")
    token = FileToken(file)
    if damage in ("gone", "a folder"):
        file.unlink()
    if damage == "a folder":
        file.mkdir()
    elif damage != "gone":
        file.write_text("" if damage == "empty" else "no token\n")
    assert text_of(token) == "one"
    if damage == "a folder":
        file.rmdir()
    swap(file, "two")
    assert text_of(token) == "two"


def test_file_is_not_looked_at_for_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second it is not, but when its token was refused."""
    now, file = 100.0, tmp_path / "token"
    monkeypatch.setattr("time.monotonic", lambda: now)
    file.write_text("one")
    token = FileToken(file)
    swap(file, "two")
    now += 0.9
    assert text_of(token) == "one"
    now += 0.2
    assert text_of(token) == "two"
    swap(file, "three")
    assert text_of(token) == "two"
    assert token.header(anew=True)[1] == "Bearer three"


@pytest.mark.parametrize("call", CALLS)
def test_refused_token_is_read_anew(
    call: str, world: World, asking: Secured, connect: Connect, tmp_path: Path
) -> None:
    """Where a token was swapped as a call was on its way, the call is made with the new one."""
    file = tmp_path / "token"
    file.write_text("old")
    asking.tokens.on_refusal = lambda: swap(file, "two")
    CALLS[call](connect(asking.target, tls=world.ca, token=file))
    assert asking.tokens.seen[:2] == ["Bearer old", "Bearer two"]


@pytest.mark.parametrize("call", CALLS)
def test_refused_twice(call: str, world: World, asking: Secured, connect: Connect) -> None:
    """A function that always has another one is asked once more, and no more."""
    made: list[str] = []

    def make() -> str:
        made.append(f"wrong{len(made)}")
        return made[-1]

    with pytest.raises(Unauthenticated):
        CALLS[call](connect(asking.target, tls=world.ca, token=make))
    assert asking.tokens.seen == ["Bearer wrong0", "Bearer wrong1"]


@pytest.mark.parametrize("call", CALLS)
def test_refused(call: str, world: World, asking: Secured, connect: Connect) -> None:
    """A call with a wrong token is not tried again; nor one of who may not do what it asks."""
    client = connect(asking.target, tls=world.ca, token="wrong")
    with pytest.raises(Unauthenticated) as caught:
        CALLS[call](client)
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.message == "the token is not known"
    asking.tokens.code, asking.tokens.words = grpc.StatusCode.PERMISSION_DENIED, "not for you"
    with pytest.raises(PermissionDenied, match="PERMISSION_DENIED: not for you"):
        CALLS[call](client)
    assert len(asking.tokens.seen) == 2


def test_without_any(world: World, asking: Secured, connect: Connect) -> None:
    """Who has no token is told how to give one."""
    with pytest.raises(Unauthenticated) as caught:
        connect(asking.target, tls=world.ca).encode(X)
    assert caught.value.message == (
        "the token is not known (the client has no token: give it as token=, --token-file or "
        "BILSTM_TOKEN)"
    )


def test_stream_goes_on_with_the_newest(
    world: World, asking: Secured, connect: Connect, quick: None
) -> None:
    """A stream that connects again carries the token of that time."""
    asking.echo.breaks = [Break(replies=2)]
    newest = iter(("one", "two"))
    client = connect(asking.target, tls=world.ca, token=lambda: next(newest))
    for encoding in client.encode_stream([X, X], in_flight=1):
        assert_states(encoding, sums(X))
    assert asking.tokens.seen == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("call", CALLS)
def test_function_that_fails(call: str, world: World, asking: Secured, connect: Connect) -> None:
    """What a token function raises, or returns in place of one, is an Unauthenticated that has it
    as its cause, and nothing is sent."""
    error = OSError("s3cret")

    def fail() -> str:
        raise error

    words = "no token could be had: token(): it raised OSError"
    with pytest.raises(Unauthenticated, match=re.escape(words)) as caught:
        CALLS[call](connect(asking.target, tls=world.ca, token=fail))
    assert caught.value.__cause__ is error
    assert "s3cret" not in str(caught.value)
    for wrong, said in ((None, "must be a str, got NoneType"), ("a b", "must be printable ASCII")):
        with pytest.raises(Unauthenticated, match=said):
            CALLS[call](connect(asking.target, tls=world.ca, token=lambda wrong=wrong: wrong))
    assert not asking.tokens.seen


# -- what never shows one -----------------------------------------------------------------------

SECRET = "s3cret-t0ken"


def shown(error: BaseException) -> str:
    """All that an error shows of itself, also in a report with variables, as services of error
    reports make it."""
    with_variables = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = with_variables.stack
    own = [frame for frame in frames if "bilstm_client" in frame.filename]
    assert own
    return "\n".join(
        (
            *(repr(error), str(error), *traceback.format_exception(error)),
            *(str(frame.locals) for frame in own),
            *(repr(vars(error)), repr(pickle.dumps(error)), repr(error.__context__)),
        )
    )


@pytest.mark.parametrize("form", ["str", "function", "file"])
def test_secrets(
    form: str,
    world: World,
    connect: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """However a call ends, no error, report, pickle, log or standard stream has the token."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text(SECRET)
    token: Any = {"str": SECRET, "function": lambda: SECRET, "file": file}[form]
    errors: list[EncoderError] = []
    with secured(world.issue("127.0.0.1"), "one") as server:
        failing = [
            (connect(server.target, tls=world.ca, token=token), Unauthenticated),
            (connect(server.target, tls=world.other_ca, token=token), NotTrusted),
            (connect(server.target, token=token), Unavailable),
        ]
        for client, kind in failing:
            for call in CALLS.values():
                with pytest.raises(kind) as caught:
                    call(client) if kind is not Unavailable else client.is_ready()
                errors.append(caught.value)
    for client in (client for client, _ in failing):
        assert SECRET not in repr(client)
    assert not any(SECRET in shown(error) for error in errors)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


def test_clients_show_nothing() -> None:
    """Nor does a client, or what it is made of, where it is printed."""
    for kind in (Client, AsyncClient):
        client = kind("localhost", token=SECRET, metadata={"x-key": SECRET})
        call = client._session.begin(None, {"x-key": SECRET})
        assert SECRET not in repr((client, client._session, call, call.token))
        assert SECRET not in repr(call.token.header() if call.token else SECRET)
