"""Connections over TLS, to real servers: which are trusted, and what is said of the others."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Semaphore, Thread
from typing import Any

import pytest
import trustme

from bilstm_client import NotTrusted, Unavailable
from tests.client.clients import Connect
from tests.client.security.servers import Secured, World, secured
from tests.client.streams.sources import X, assert_states
from tests.support.fake_streams import Break, sums
from tests.support.waiting import HANGS_AFTER_SECONDS


@pytest.fixture
def trusted(world: World) -> Iterator[Secured]:
    """A server that a client of the world's CA trusts."""
    with secured(world.issue("localhost", "127.0.0.1")) as server:
        yield server


# -- those that are trusted -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "str", "bytes", "environment", "machine"])
def test_trusted(
    form: str, world: World, trusted: Secured, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CA is given as a file, as bytes, by BILSTM_CA, or is one that the machine trusts; and each
    kind of call goes over the connection."""
    forms: dict[str, Any] = {"path": world.ca, "str": str(world.ca), "bytes": world.ca.read_bytes()}
    options = {"tls": forms[form]} if form in forms else {}
    if form == "environment":
        monkeypatch.setenv("BILSTM_CA", str(world.ca))
    elif form == "machine":
        monkeypatch.setenv("SSL_CERT_FILE", str(world.ca))
        options = {"tls": True}
    for host in ("127.0.0.1", "localhost", "dns:///localhost"):
        client = connect(f"{host}:{trusted.port}", **options)
        client.wait_until_ready(HANGS_AFTER_SECONDS)
        assert client.is_ready()
        assert_states(client.encode(X), sums(X))
        for encoding in client.encode_stream([X, X]):
            assert_states(encoding, sums(X))


def test_plain_though_the_environment_has_a_ca(
    world: World, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given goes before the environment."""
    monkeypatch.setenv("BILSTM_CA", str(world.ca))
    with secured(None) as server:
        assert connect(server.target, tls=False).is_ready()
        with pytest.raises(NotTrusted):
            connect(server.target).is_ready()


def test_roots_of_grpc(
    world: World, trusted: Secured, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a CA of the machine's those of gRPC are trusted, or none that is known here."""
    monkeypatch.setenv("SSL_CERT_FILE", str(world.ca) + ".none")
    monkeypatch.setenv("SSL_CERT_DIR", str(world.ca) + ".none")
    with pytest.raises(NotTrusted, match="signed by none that is trusted here"):
        connect(trusted.target, tls=True).encode(X)


def test_server_name(world: World, connect: Connect) -> None:
    """A server behind a tunnel is trusted by the name in its certificate."""
    with secured(world.issue("encoder.example")) as server:
        for target in (server.target, f"127.0.0.1:{server.port}"):
            client = connect(target, tls=world.ca, server_name="encoder.example")
            assert client.is_ready()
            assert_states(client.encode(X), sums(X))


def test_client_certificate(world: World, connect: Connect) -> None:
    """A server that asks for a certificate takes one that its CA has signed."""
    own = world.files(world.issue("app"))
    with secured(world.issue("127.0.0.1"), client_ca=world.ca) as server:
        client = connect(server.target, tls=world.ca, client_certificate=own)
        assert_states(client.encode(X), sums(X))


def test_several(world: World, connect: Connect) -> None:
    """Of several servers of one name, each call takes the next one that says that it serves."""
    certificate = world.issue("encoder.example")
    with secured(certificate) as one, secured(certificate) as other:
        target = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
        client = connect(target, tls=world.ca, server_name="encoder.example")
        client.wait_until_ready(HANGS_AFTER_SECONDS)
        while not (one.echo.encoded and other.echo.encoded):
            assert_states(client.encode(X), sums(X))
        one.echo.is_serving = False
    with secured(certificate, port=one.port) as one, secured(certificate) as other:
        one.echo.is_serving = False
        target = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
        client = connect(target, tls=world.ca, server_name="encoder.example")
        for _ in range(6):
            client.encode(X)
        assert (one.echo.encoded, other.echo.encoded) == (0, 6)


# -- those that are not -----------------------------------------------------------------------


CERTIFICATES: dict[str, tuple[dict[str, Any], type[Unavailable], str]] = {
    "wrong CA": (
        {"by_other": True},
        NotTrusted,
        r"its certificate is signed by none that is trusted here \(unable to get local issuer "
        r"certificate\); give its CA's file as tls= \(--ca, BILSTM_CA\)$",
    ),
    "expired": ({"days": (-3, -2)}, NotTrusted, "its certificate has expired$"),
    "too early": ({"days": (2, 3)}, Unavailable, "its certificate is not yet valid$"),
    "wrong name": (
        {"names": ["encoder.example"]},
        NotTrusted,
        r"its certificate is not for '127.0.0.1'; if it is the right server, give a name that the "
        r"certificate has as server_name= \(--server-name\)$",
    ),
}


def wrong(world: World, case: str) -> trustme.LeafCert:
    options = dict(CERTIFICATES[case][0])
    return world.issue(*options.pop("names", ["localhost", "127.0.0.1"]), **options)


@pytest.mark.parametrize("case", CERTIFICATES)
def test_certificates(case: str, world: World, connect: Connect) -> None:
    """What is wrong with a certificate is said, with what helps, by each kind of call at once; but
    one that will be good in time is tried again."""
    _, kind, words = CERTIFICATES[case]
    with secured(wrong(world, case)) as server:
        client = connect(server.target, tls=world.ca)
        seconds = 0.5 if kind is Unavailable else HANGS_AFTER_SECONDS
        for call in (
            lambda: client.encode(X, timeout_seconds=seconds),
            lambda: list(client.encode_stream([X], timeout_seconds=seconds)),
            lambda: client.is_ready(),
            lambda: client.wait_until_ready(seconds),
        ):
            with pytest.raises(Unavailable, match=words) as caught:
                call()
            assert type(caught.value) is kind
            told = f"the server at {server.target} is not trusted: "
            assert told in caught.value.message
    assert not server.echo.encoded


def test_name_that_is_given(world: World, connect: Connect) -> None:
    """A name that was given and is not in the certificate is the one that is named."""
    with secured(world.issue("127.0.0.1")) as server:
        client = connect(server.target, tls=world.ca, server_name="encoder.example")
        with pytest.raises(NotTrusted, match=r"not for 'encoder\.example'"):
            client.encode(X)


def test_several_that_are_not(world: World, connect: Connect) -> None:
    """Of several, others may yet be trusted: they are waited for, in the same words."""
    with secured(wrong(world, "expired")) as one, secured(wrong(world, "expired")) as other:
        target = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
        client = connect(target, tls=world.ca, server_name="localhost")
        with pytest.raises(Unavailable, match="its certificate has expired") as caught:
            client.wait_until_ready(0.5)
        assert type(caught.value) is Unavailable


def test_server_without_tls(world: World, connect: Connect) -> None:
    """A plain server is no server for a client of TLS, and hears nothing of the token."""
    with secured(None) as server:
        client = connect(server.target, tls=world.ca, token="s3cret")
        with pytest.raises(NotTrusted, match=r"it has no TLS; is this the right port\?"):
            client.encode(X)
        assert not server.tokens.seen


def test_client_without_tls(trusted: Secured, connect: Connect) -> None:
    """A plain client is told what it may lack."""
    for call in ("encode", "wait_until_ready"):
        with pytest.raises(Unavailable) as caught:
            getattr(connect(trusted.target), call)(
                *([X] if call == "encode" else []), timeout_seconds=0.5
            )
        assert "Socket closed (if it has TLS, give tls=True or its CA's file: --tls, --ca)" in str(
            caught.value
        )


@pytest.mark.parametrize("case", ["none", "wrong CA", "expired"])
def test_client_certificate_that_is_refused(case: str, world: World, connect: Connect) -> None:
    """A server that wants a client certificate only closes the connection; what it may want is
    said."""
    options: dict[str, Any] = {}
    if case != "none":
        own = world.issue("app", **{k: v for k, v in CERTIFICATES[case][0].items() if k != "names"})
        options["client_certificate"] = world.files(own)
    with secured(world.issue("127.0.0.1"), client_ca=world.ca) as server:
        with pytest.raises(Unavailable, match="it may ask for a client certificate, or") as caught:
            connect(server.target, tls=world.ca, **options).encode(X, timeout_seconds=0.5)
        assert caught.value.message.startswith(f"no server answers at {server.target}: ")
    assert not server.echo.encoded


@contextmanager
def https(certificate: trustme.LeafCert, port: int = 0) -> Iterator[tuple[int, Semaphore]]:
    """A server of TLS that has no HTTP/2; gives its port, and releases for each connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    accepted = Semaphore(0)
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve() -> None:
            with suppress(OSError):  # it is closed
                while True:
                    connection, _ = listener.accept()
                    accepted.release()
                    with (
                        suppress(OSError),
                        context.wrap_socket(connection, server_side=True) as tls,
                    ):
                        tls.recv(1024)

        thread = Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], accepted
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_https_without_grpc(world: World, connect: Connect) -> None:
    """A port of HTTPS, such as that of metrics, is named as one."""
    with https(world.issue("127.0.0.1")) as (port, _):
        client = connect(f"127.0.0.1:{port}", tls=world.ca)
        with pytest.raises(NotTrusted, match="it has no gRPC over its TLS; is this the right port"):
            client.encode(X)


def test_stream_outlives_a_wrong_certificate(world: World, connect: Connect, quick: None) -> None:
    """A stream that had been open waits for its server to be trusted again."""
    good = world.issue("127.0.0.1")
    with ThreadPoolExecutor() as pool:
        with secured(good) as server:
            server.echo.breaks = [Break(replies=2), *[Break(replies=0)] * 1000]
            results = connect(server.target, tls=world.ca).encode_stream([X, X], in_flight=1)
            assert_states(next(results), sums(X))
        with https(wrong(world, "wrong CA"), server.port) as (_, accepted):
            waiting = pool.submit(next, results)
            for _ in range(2):
                assert accepted.acquire(timeout=HANGS_AFTER_SECONDS)
        with secured(good, port=server.port):
            assert_states(waiting.result(HANGS_AFTER_SECONDS), sums(X))
        results.close()
