"""What a client says where it reaches no server: its own words, for both clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from bilstm_client import Unavailable
from bilstm_client._calls.target import Target
from bilstm_client._calls.tls import Tls
from bilstm_client._calls.unreached import unreached
from tests.client.calls.encodings import X
from tests.client.clients import AnyClient, Connect

NOT_THERE = "(is bilstm-server running there?)"
PORT = "127.0.0.1:1"  # a privileged port that nothing listens on


def error_of(client: AnyClient) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        client.encode(X, timeout_seconds=0.5)
    return caught.value


@pytest.mark.parametrize("target", [PORT, f"ipv4:{PORT},127.0.0.1:2", f"dns:///{PORT}"])
def test_refused(target: str, connect: Connect) -> None:
    """A refused connection names the target as it was given, and what may help; once."""
    error = error_of(connect(target))
    assert error.message == f"no server answers at {target}: Connection refused {NOT_THERE}"
    assert error.__suppress_context__


def test_no_socket(connect: Connect, tmp_path: Path) -> None:
    """A socket that is not there."""
    target = f"unix:{tmp_path}/socket"
    message = error_of(connect(target)).message
    assert message == f"no server answers at {target}: No such file or directory {NOT_THERE}"


@contextmanager
def serving_http() -> Iterator[str]:
    """What a server of HTTP/1 says to all that comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # it is closed
                    return
                with connection:
                    connection.recv(1024)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_no_grpc(connect: Connect) -> None:
    """A port of HTTP, such as that of metrics, is named as one, with the port to try."""
    with serving_http() as target:
        message = error_of(connect(target)).message
    assert message.startswith(f"no server answers at {target}: this looks like no gRPC port")
    assert "50051" in message


ALL = "failed to connect to all addresses; last error: "


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (
            f"{ALL}UNKNOWN: ipv6:%5B::1%5D:7: Failed to connect to remote host: No route",
            "no server answers at host:50051: No route",
        ),
        (
            f"{ALL}UNAVAILABLE: ipv4:1.2.3.4:7: Socket closed",
            "no server answers at host:50051: Socket closed (if it has TLS, give tls=True or its "
            "CA's file: --tls, --ca)",
        ),
        (
            "errors resolving host:7: [field:hostname lookup error:address lookup failed for "
            "host:7: Domain name not found]",
            "no server answers at host:50051: Domain name not found",
        ),
        (f"{ALL}something else", "no server answers at host:50051: something else"),
        ("the server is loading its models", "the server is loading its models"),
        ("", ""),
    ],
)
def test_words(details: str, said: str) -> None:
    """Of what gRPC says the reason stays, and all that is not known."""
    assert unreached(details, Target.of("host"), None) == (Unavailable, said)


def test_refused_with_tls() -> None:
    """A name has several addresses, and gRPC tells of one that refused also where another one's
    server took the connection, and then did not take the client's certificate."""
    tls = Tls(grpc.ssl_channel_credentials())
    details = (
        f"{ALL}UNKNOWN: ipv6:%5B::1%5D:7: Failed to connect to remote host: Connection refused"
    )
    kind, said = unreached(details, Target.of("localhost:7"), tls)
    assert kind is Unavailable
    assert said.startswith(
        "no server answers at localhost:7: Connection refused (is bilstm-server "
    )
    assert "--client-certificate" in said
