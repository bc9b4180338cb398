"""What a client may be told as its target, and proxies on the way to it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_client import AsyncClient, Client, EncoderError, Unavailable
from bilstm_client._calls.target import Target
from bilstm_client.cli.main import main
from tests.client.streams.sources import X
from tests.support.fake_streams import FakeServer, sums
from tests.support.servers import RunningServer

FORMS = {
    "localhost": "localhost:50051",
    "localhost:7": "localhost:7",
    "my-host_1.example.com.": "my-host_1.example.com.:50051",
    "127.0.0.1": "127.0.0.1:50051",
    "::1": "[::1]:50051",
    "[::1]": "[::1]:50051",
    "[::1]:7": "[::1]:7",
    "dns:///host": "dns:///host:50051",
    "dns:host:7": "dns:host:7",
    "dns://10.0.0.53/host": "dns://10.0.0.53/host:50051",
    "ipv4:10.0.0.1,10.0.0.2:7": "ipv4:10.0.0.1:50051,10.0.0.2:7",
    "ipv6:[::1],[::2]:7": "ipv6:[::1]:50051,[::2]:7",
    "unix:some/path": "unix:some/path",
    "unix:///some/path": "unix:///some/path",
    "host:65535": "host:65535",
}


@pytest.mark.parametrize("text", FORMS)
def test_forms(text: str) -> None:
    """Every form has its port, 50051 where none is given."""
    assert Target.of(text, {}).name == FORMS[text]


BROKEN = [
    *("", " ", "two words", "host:50051\n", "host/path", "http://host:50051", "https://host"),
    *("host:", "host:0", "host:65536", "host:99999", "host:-1", "host:٣", "host:http", ":50051"),
    *("[::1", "[::1]7", "[::1]:", "[nonsense]:1", "1:2:3", "a:1,b:2"),
    *("unix:", "unix:" + 108 * "x", "ipv4:", "ipv4:host", "ipv4:[::1]", "ipv6:127.0.0.1"),
    *("dns:///", "dns:///host:99999", "ipv4:127.0.0.1:1,127.0.0.1:99999"),
]


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_broken_target(text: str, kind: Callable[[str], Any]) -> None:
    """What can't be dialled is a ValueError of the constructor, which names it."""
    with pytest.raises(ValueError, match=r"^target ") as caught:
        kind(text)
    assert str(caught.value).startswith(f"target {text!r}: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://host:50051", "write 'host:50051', without http://"),
        ("grpc://localhost", "write 'localhost', without grpc://"),
        ("http://user:word@[::1]:7/v1?x=1", "write '[::1]:7', without http://"),
        ("https://host", "write 'host', without https://, and give tls=True (--tls)"),
        ("http://", "write HOST:PORT, without http://"),
        ("http:localhost", "write 'localhost', without http:"),
        ("HTTPS:host:7", "write 'host:7', without HTTPS:, and give tls=True (--tls)"),
    ],
)
def test_url(text: str, words: str) -> None:
    """A URL is refused in words that say what to write."""
    with pytest.raises(ValueError, match=r"^target ") as caught:
        Client(text)
    assert str(caught.value) == f"target {text!r}: {words}"


def test_target_of_no_text() -> None:
    """A target that is no text is a TypeError."""
    wrong: Any
    for wrong in (None, b"localhost", 50051, ("localhost", 50051)):
        with pytest.raises(TypeError, match=r"^target must be a str"):
            Client(wrong)


@given(text=st.text(max_size=30) | st.from_regex(r"(dns:///|ipv[46]:|unix:)?[\[\]:.,0-9a-f]{0,20}"))
def test_any_target(text: str) -> None:
    """Whatever the text is, it is a target or a ValueError, and a target reads as itself."""
    try:
        target = Target.of(text, {})
    except ValueError:
        return
    assert Target.of(target.name, {}) == target


def test_which_are_balanced() -> None:
    """Several addresses, and names that gRPC is to resolve, are balanced; others are as they are
    dialled."""
    for text in ("dns:///host", "dns:host", "ipv4:10.0.0.1,10.0.0.2", "ipv6:::1,::2"):
        assert Target.of(text, {}).is_balanced, text
    for text in ("host", "10.0.0.1", "[::1]", "ipv4:10.0.0.1", "unix:path"):
        assert not Target.of(text, {}).is_balanced, text


PROXY = {"http_proxy": "http://user:secret@proxy.example:3128"}


def test_proxy_that_grpc_takes() -> None:
    """The proxy is found as gRPC finds it, and named without its password."""
    proxy = "proxy.example:3128 (http_proxy)"
    assert Target.of("host", PROXY).proxy == proxy
    assert Target.of("dns:///host", PROXY).proxy == proxy
    both = PROXY | {"grpc_proxy": "http://other:1"}
    assert Target.of("host", both).proxy == "other:1 (grpc_proxy)"
    assert Target.of("host", PROXY | {"grpc_proxy": ""}).proxy == ""
    assert Target.of("host", {"https_proxy": "https://proxy"}).proxy == ""  # gRPC takes no TLS
    assert Target.of("host", {"http_proxy": "http://[broken"}).proxy == ""
    for exempt in ("other, host.example.com", "example.com", "EXAMPLE.com"):
        assert Target.of("host.example.com", PROXY | {"no_proxy": exempt}).proxy == ""
    assert Target.of("10.1.2.3", PROXY | {"no_proxy": "10.0.0.0/8"}).proxy == ""
    assert Target.of("11.1.2.3", PROXY | {"no_proxy": "10.0.0.0/8,nonsense/9,"}).proxy == proxy
    assert Target.of("host", PROXY | {"no_proxy": "host", "no_grpc_proxy": ""}).proxy == proxy


@pytest.mark.parametrize(
    "text",
    [
        *("localhost", "LOCALHOST:7", "localhost.", "some.localhost", "127.0.0.1", "127.8.9.1:7"),
        *("127.1", "[::1]:7", "::1", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "unix:path"),
        *("dns:///localhost", "ipv4:127.0.0.1:1,127.0.0.2", "ipv4:10.0.0.1,10.0.0.2"),
    ],
)
def test_no_proxy(text: str) -> None:
    """None is used for loopback, nor for several addresses, which a proxy would take for one."""
    target = Target.of(text, PROXY)
    assert (target.is_direct, target.proxy) == (True, "")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that the environment names, and that answers 403: where it is, and what it was
    sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://user:secret@{address}")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.setenv(name, "")
    yield address, requests
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_loopback_knows_no_proxy(
    connect: Callable[..., Any], server: RunningServer, proxy: tuple[str, list[bytes]]
) -> None:
    """Calls, streams and `bilstm health` to this machine do not go through it."""
    target = f"localhost:{server.app.port}"
    client = connect(target)
    client.encode(X)
    assert len(list(client.encode_stream([X]))) == 1
    assert main(["health", "--server", target]) == 0
    assert proxy[1] == []


def test_errors_name_the_proxy(
    connect: Callable[..., Any],
    proxy: tuple[str, list[bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Elsewhere what fails says that there was one, which, and who named it; no password."""
    words = f"through the proxy {proxy[0]} (grpc_proxy)"
    client = connect("server.example:50051", timeout_seconds=0.5)
    calls: list[Callable[[], object]] = [
        lambda: client.encode(X),
        lambda: list(client.encode_stream([X])),
    ]
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            call()
        assert words in str(caught.value)
        assert words in caught.value.args[0]
        assert "secret" not in str(caught.value)
    assert main(["health", "--server", "server.example", "--timeout-seconds", "2"]) == 1
    stderr = capsys.readouterr().err
    assert words in stderr
    assert "secret" not in stderr
    assert proxy[1][0].startswith(b"CONNECT server.example:50051 ")


def test_unix_socket(connect: Callable[..., Any], tmp_path: Path) -> None:
    """A server on a socket of the file system is one like any other."""
    fake = FakeServer()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, [fake])
        path = os.path.relpath(tmp_path / "socket")
        server.add_insecure_port(f"unix:{path}")
        server.start()
        (encoding,) = connect(f"unix:{path}").encode_stream([X])
        np.testing.assert_array_equal(encoding.states, sums(X))
        server.stop(None).wait()


def test_shell_names_a_broken_target(capsys: pytest.CaptureFixture[str]) -> None:
    """From the shell it is an error of usage."""
    with pytest.raises(SystemExit) as caught:
        main(["health", "--server", "host:99999"])
    assert caught.value.code == 2
    assert "target 'host:99999': the port must be 1 to 65535" in capsys.readouterr().err


def test_default_port_is_dialled(connect: Callable[..., Any]) -> None:
    """A name without a port is that of the server's own."""
    with pytest.raises(EncoderError) as caught:
        connect("127.0.0.5").list_models()
    assert isinstance(caught.value.__context__, grpc.RpcError)
    assert "127.0.0.5:50051" in str(caught.value.__context__)
