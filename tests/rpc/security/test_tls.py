"""Which connections become one, and which do not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from importlib import import_module
from pathlib import Path

import grpc
import pytest

from bilstm_server.app import App
from bilstm_server.metrics import Metrics
from bilstm_server.rpc.credentials import TlsCredentials
from bilstm_server.testing import server_process
from tests.rpc.security.callers import (
    OWN_CONNECTION,
    REQUEST,
    encode_outcome,
    outcome,
    plain_channel,
    running,
    sample,
    secure_channel,
    stub_of,
)
from tests.rpc.security.conftest import Configure
from tests.security.authority import Authority
from tests.support.waiting import HANGS_AFTER_SECONDS

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


async def test_only_who_trusts_the_right_server_connects(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """A client is answered over TLS only, by a server whose name and authority are those that it
    expects."""
    other = Authority(tmp_path, "other")
    async with running(with_tls()) as app:
        assert await encode_outcome(secure_channel(app, authority)) is OK
        assert await encode_outcome(plain_channel(app)) is UNAVAILABLE
        assert await encode_outcome(secure_channel(app, other)) is UNAVAILABLE
        wrong_name = secure_channel(app, authority, name="example.org")
        assert await encode_outcome(wrong_name) is UNAVAILABLE
        assert await encode_outcome(secure_channel(app, authority)) is OK


async def test_an_expired_server(with_tls: Configure, authority: Authority) -> None:
    """A certificate that ends while it is served lets nobody in any more, and metrics said when."""
    files = authority.issue(ends_in=2.0)
    async with running(with_tls(tls_cert=files.certificate, tls_key=files.key)) as app:
        end = sample(app, "bilstm_certificate_end_timestamp_seconds", setting="tls_cert")
        assert end == pytest.approx(time.time() + 2, abs=30)
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            began_at = time.time()
            while await encode_outcome(secure_channel(app, authority)) is OK:
                assert began_at < end + 1  # it is good until the end of its last second
                began_at = time.time()


async def test_callers_prove_themselves(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """With --tls-client-ca a caller needs a certificate of that authority that is good now."""
    callers, other = Authority(tmp_path, "callers"), Authority(tmp_path, "other")
    async with running(with_tls(tls_client_ca=callers.path)) as app:
        for own, expected in {
            callers.issue("app.example"): OK,
            None: UNAVAILABLE,
            other.issue("app.example"): UNAVAILABLE,
            callers.issue("app.example", ends_in=-60.0): UNAVAILABLE,
            callers.issue("second.example"): OK,
        }.items():
            assert await encode_outcome(secure_channel(app, authority, own)) is expected
        assert await encode_outcome(plain_channel(app)) is UNAVAILABLE


async def test_ended_certificates_let_nobody_in(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """A caller's certificate is looked at with each call: one that was good before does not let in
    when it has ended, though the client kept its session, or its connection."""
    callers = Authority(tmp_path, "callers")
    own = callers.issue("app.example", ends_in=4.0)
    key, chain = own.pair
    credentials = grpc.ssl_channel_credentials(authority.certificate, key, chain)
    sessions = import_module("grpc._cython.cygrpc").SSLSessionCacheLRU(4)
    options = [OWN_CONNECTION, ("grpc.ssl_session_cache", sessions)]
    end = time.time() + 4
    async with running(with_tls(tls_client_ca=callers.path)) as app:
        target = f"localhost:{app.port}"
        kept = grpc.aio.secure_channel(target, credentials, options=[OWN_CONNECTION])
        call = stub_of(kept).Encode(REQUEST, timeout=HANGS_AFTER_SECONDS)
        assert await outcome(call) is OK
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            began_at = time.time()
            while (
                await encode_outcome(grpc.aio.secure_channel(target, credentials, options=options))
                is OK
            ):
                assert began_at < end + 1  # it is good until the end of its last second
                began_at = time.time()
        assert await encode_outcome(kept) is grpc.StatusCode.UNAUTHENTICATED


def test_certificates_are_given_once(with_tls: Configure, authority: Authority) -> None:
    """gRPC is told of certificates again only when they have changed. It aborts the process if it
    is told anew at each of many handshakes at once: make faults, fuzz-handshakes."""
    files = authority.issue()
    settings = with_tls(tls_cert=files.certificate, tls_key=files.key)
    credentials = TlsCredentials(settings, Metrics().file)
    port = credentials.of_port(certificates=False)
    port.server_credentials()
    assert port._news() is None
    other = authority.issue()
    files.certificate.write_bytes(other.certificate.read_bytes())
    files.key.write_bytes(other.key.read_bytes())
    assert credentials._pair.check(patient=False)
    assert port._news() is not None
    assert port._news() is None


def shake_hands(app: App, context: ssl.SSLContext) -> bytes:
    """What the server sends first over TLS; empty if it closes the connection."""
    with (
        socket.create_connection(("127.0.0.1", app.port), timeout=HANGS_AFTER_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.recv(1)


async def test_versions_and_protocols(with_tls: Configure, authority: Authority) -> None:
    """TLS 1.2 and 1.3 are spoken, nothing older; and nothing but HTTP/2 behind them."""
    async with running(with_tls()) as app:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=str(authority.path))
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            assert await asyncio.to_thread(shake_hands, app, context)
            context.set_alpn_protocols(["http/1.1"])
            assert not await asyncio.to_thread(shake_hands, app, context)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(shake_hands, app, context)


def test_failed_handshakes_leave_no_line(authority: Authority) -> None:
    """Whoever fails to connect, as often as he likes, writes nothing into the log."""
    files = authority.issue()
    flags = [f"--tls-cert={files.certificate}", f"--tls-key={files.key}"]
    context = ssl.create_default_context()  # which does not know the authority
    with server_process(*flags, f"--tls-client-ca={authority.path}") as process:
        port = int(process.wait_for("listening")["port"])
        before = len(process.log)
        for n in range(100):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                if n % 2:
                    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                    connection.recv(1)
                else:
                    with pytest.raises(ssl.SSLError):
                        context.wrap_socket(connection, server_hostname="localhost")
        assert process.stop() == 0
        assert [event["event"] for event in process.log[before:]] == ["draining", "drained"]
        assert process.lines == []
