"""--tls-client-port: who is let in there, and who on --port then."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest

from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import Client
from bilstm_server.callers import Caller
from bilstm_server.testing import server_process
from tests.rpc.security.callers import (
    REQUEST,
    Metadata,
    bearer,
    encode_outcome,
    outcome,
    ports_of,
    running,
    sample,
    secure_channel,
    stub_of,
    write_tokens,
)
from tests.rpc.security.conftest import Configure, Seen
from tests.rpc.security.test_reloading import reloaded
from tests.security.authority import OTHER_TOKEN, TOKEN, Authority, Files
from tests.support.waiting import HANGS_AFTER_SECONDS

OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

# Port, whether the caller has a certificate, its token; how the call ends, and whose it was.
SEARCH, BULK, WRONG = bearer(TOKEN), bearer(OTHER_TOKEN), bearer("x" * 40)
WITH_TOKENS: list[tuple[str, bool, Metadata, grpc.StatusCode, str | None]] = [
    ("--port", False, (), UNAUTHENTICATED, None),
    ("--port", False, SEARCH, OK, "search"),
    ("--port", False, WRONG, UNAUTHENTICATED, None),
    ("--port", True, (), UNAUTHENTICATED, None),
    ("--port", True, SEARCH, OK, "search"),
    ("--tls-client-port", False, (), UNAVAILABLE, None),
    ("--tls-client-port", False, SEARCH, UNAVAILABLE, None),
    ("--tls-client-port", True, (), OK, "app"),
    ("--tls-client-port", True, SEARCH, OK, "search"),
    ("--tls-client-port", True, BULK, PERMISSION_DENIED, "bulk"),
    ("--tls-client-port", True, WRONG, UNAUTHENTICATED, None),
    ("--tls-client-port", True, (("authorization", "Basic x"),), UNAUTHENTICATED, None),
]


async def test_with_tokens(
    two_ports: Configure, authority: Authority, own: Files, tokens: Path, seen: Seen
) -> None:
    """A call needs a token on --port, and a certificate on the other one, which stands for a token.
    A token that is there must be good, and gives name and rights."""
    async with running(two_ports(tokens_file=tokens)) as app:
        for port, certified, metadata, expected, name in WITH_TOKENS:
            certificate = own if certified else None
            channel = secure_channel(app, authority, certificate, port=ports_of(app)[port])
            case = (port, certified, metadata)
            assert (case, await encode_outcome(channel, metadata)) == (case, expected)
            assert [caller.name for caller, _ in seen] == ([name] if name else [])
            seen.clear()
        refused = {
            reason: sample(app, "bilstm_unauthorized_total", reason=reason)
            for reason in ("no_token", "wrong_token", "no_right")
        }
    assert refused == {"no_token": 3, "wrong_token": 2, "no_right": 1}


async def test_without_tokens(
    two_ports: Configure, authority: Authority, own: Files, seen: Seen
) -> None:
    """Without --tokens-file everybody is let in on --port, under his address, whatever certificate
    he has, as he is asked for none; who comes over the other port is known by his."""
    async with running(two_ports()) as app:
        for port, certificate, expected in (
            ("--port", None, OK),
            ("--port", own, OK),
            ("--tls-client-port", own, OK),
            ("--tls-client-port", None, UNAVAILABLE),
        ):
            channel = secure_channel(app, authority, certificate, port=ports_of(app)[port])
            assert await encode_outcome(channel) is expected
    peer = Caller("127.0.0.1", "peer")
    assert [caller for caller, _ in seen] == [peer, peer, Caller("app", "certificate")]


async def test_certificates_that_let_nobody_in(
    two_ports: Configure, authority: Authority, callers: Authority, tmp_path: Path
) -> None:
    """A certificate of another authority, or one that has ended, makes no connection to the port
    that asks for one."""
    other = Authority(tmp_path, "other")
    async with running(two_ports()) as app:
        for own in (other.issue("app.example"), callers.issue("app.example", ends_in=-60.0)):
            channel = secure_channel(app, authority, own, port=app.tls_client_port)
            assert await encode_outcome(channel) is UNAVAILABLE


@pytest.mark.parametrize("with_tokens", [False, True])
async def test_a_certificate_that_ends(
    with_tokens: bool,
    two_ports: Configure,
    authority: Authority,
    callers: Authority,
    tokens: Path,
) -> None:
    """Once its certificate has ended a connection lets in no call, also where one without a
    certificate might call over --port, and with a token."""
    own = callers.issue("app.example", ends_in=3.0)
    values = {"tokens_file": tokens} if with_tokens else {}
    async with running(two_ports(**values)) as app:
        async with secure_channel(app, authority, own, port=app.tls_client_port) as kept:
            stub = stub_of(kept)
            assert await outcome(stub.Encode(REQUEST, timeout=HANGS_AFTER_SECONDS)) is OK
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                while (ended := await outcome(stub.Encode(REQUEST))) is OK:
                    pass
            assert ended is UNAUTHENTICATED
            assert await outcome(stub.Encode(REQUEST, metadata=SEARCH)) is UNAUTHENTICATED
        assert sample(app, "bilstm_unauthorized_total", reason="ended_certificate") == 2


def shake_hands(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bytes, bool, ssl.SSLSession | None]:
    """What the server sends first, whether it has resumed the session, and the one to resume."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANGS_AFTER_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
    ):
        return connection.recv(1), bool(connection.session_reused), connection.session


@pytest.mark.parametrize("version", VERSIONS)
async def test_sessions_are_of_one_port(
    version: ssl.TLSVersion, two_ports: Configure, authority: Authority
) -> None:
    """A session of TLS that was begun on --port, without a certificate, is resumed there, and gets
    nobody in on the port that asks for one."""
    context = ssl.create_default_context(cafile=str(authority.path))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    async with running(two_ports()) as app:
        ports = ports_of(app)
        said, _, session = await asyncio.to_thread(shake_hands, ports["--port"], context)
        assert said
        again = await asyncio.to_thread(shake_hands, ports["--port"], context, session)
        assert again[:2] == (said, True)
        try:
            said, resumed, _ = await asyncio.to_thread(
                shake_hands, ports["--tls-client-port"], context, session
            )
        except (ssl.SSLError, ConnectionResetError):
            return  # it has no handshake with TLS 1.2
        assert (said, resumed) == (b"", False)


async def test_a_withdrawn_token_ends_its_streams_only(
    two_ports: Configure, authority: Authority, own: Files, tokens: Path
) -> None:
    """Of two streams over a connection with a certificate, the one that has shown a token ends with
    that; the other one needs none."""
    async with (
        running(two_ports(tokens_file=tokens)) as app,
        secure_channel(app, authority, own, port=app.tls_client_port) as channel,
    ):
        by_token, by_certificate = (
            stub_of(channel).EncodeStream(metadata=metadata) for metadata in (SEARCH, ())
        )
        for stream in (by_token, by_certificate):
            await stream.write(pb.EncodeStreamRequest(options=pb.StreamOptions()))
            assert (await stream.read()).HasField("opened")
        write_tokens(tokens, f"bulk: {OTHER_TOKEN}")
        await reloaded(app, "tokens_file")
        assert await by_token.code() is UNAUTHENTICATED
        await by_certificate.done_writing()
        assert await by_certificate.read() is grpc.aio.EOF
        assert await by_certificate.code() is OK


def test_real_clients(
    authority: Authority, callers: Authority, own: Files, tokens: Path, model_folder: Path
) -> None:
    """The line `listening` names both ports; a client with a token is served on one, and one with a
    certificate on the other."""
    files = authority.issue()
    flags = [
        *(f"--tls-cert={files.certificate}", f"--tls-key={files.key}"),
        *(f"--tls-client-ca={callers.path}", "--tls-client-port=0", f"--tokens-file={tokens}"),
    ]
    with server_process(f"--model=small={model_folder}", *flags) as process:
        listening = process.wait_for("listening")
        assert len({listening["port"], listening["tls_client_port"], 0}) == 3
        ways: list[tuple[str, dict[str, Any]]] = [
            ("port", {"token": TOKEN}),
            ("tls_client_port", {"client_certificate": (own.certificate, own.key)}),
        ]
        for name, shown in ways:
            target = f"localhost:{listening[name]}"
            with Client(target, tls=authority.path, **shown) as client:
                assert client.encode([[0.5] * 5]).states.shape[0] == 1
        assert process.stop() == 0
