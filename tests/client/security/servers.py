"""Servers of TLS that ask for tokens, and the certificates of a small world: one CA that clients
trust, and one that they don't.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import trustme
from grpc_health.v1 import health_pb2

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from tests.client.streams.sources import X
from tests.support.fake_streams import FakeServer, sums

DAY = timedelta(days=1)


class World:
    """A CA whose file is `ca`, and certificates that it, or another one, has signed."""

    def __init__(self, folder: Path):
        self._trusted, self._other = trustme.CA(), trustme.CA()
        self._folder = folder
        self.ca, self.other_ca = folder / "ca.pem", folder / "other-ca.pem"
        self._trusted.cert_pem.write_to_path(str(self.ca))
        self._other.cert_pem.write_to_path(str(self.other_ca))

    def issue(
        self, *names: str, days: tuple[int, int] = (-1, 1), by_other: bool = False
    ) -> trustme.LeafCert:
        """A certificate for these names, good for these days from now on."""
        now = datetime.now(UTC)
        first, last = (now + count * DAY for count in days)
        signer = self._other if by_other else self._trusted
        return signer.issue_cert(*names, not_before=first, not_after=last)

    def files(self, certificate: trustme.LeafCert) -> tuple[Path, Path]:
        """The certificate with its chain, and its key, as files of their own."""
        folder = self._folder / f"{id(certificate)}"
        folder.mkdir(exist_ok=True)
        files = folder / "client.pem", folder / "client.key"
        for file, parts in zip(files, _pem(certificate), strict=True):
            file.write_bytes(parts)
        return files


def _pem(certificate: trustme.LeafCert) -> tuple[bytes, bytes]:
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    return chain, certificate.private_key_pem.bytes()


class Tokens(grpc.ServerInterceptor):
    """Refuses calls without one of its tokens, in the words that a server has, and writes down what
    each call has shown."""

    def __init__(self, *good: str):
        self.good = set(good)  # empty: no call is refused
        self.seen: list[str] = []  # what each call had as its authorization, or ""
        self.code, self.words = grpc.StatusCode.UNAUTHENTICATED, "the token is not known"
        self.health_is_open = False
        self.read_first = 0  # requests of a stream, before it is refused
        self.on_refusal: Callable[[], None] = lambda: None

    def intercept_service(
        self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails
    ) -> Any:
        shown = ", ".join(
            str(value) for name, value in details.invocation_metadata if name == "authorization"
        )
        self.seen.append(shown)
        is_open = not self.good or (self.health_is_open and ".health." in details.method)
        if is_open or shown.removeprefix("Bearer ") in self.good:
            return continuation(details)
        self.on_refusal()

        def refuse(_: Any, context: grpc.ServicerContext) -> None:
            context.abort(self.code, self.words)

        def refuse_stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
            for _ in range(self.read_first):
                next(requests)
            refuse(requests, context)

        if details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(refuse_stream)
        return grpc.unary_unary_rpc_method_handler(refuse)


class Echo(FakeServer):
    """The fake, which also answers `Encode`, and how it is, once and for as long as it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.is_healthy = True
        self.encoded = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if method == "/bilstm.v1.EncoderService/Encode":
            return grpc.unary_unary_rpc_method_handler(self._encode)
        if method == "/grpc.health.v1.Health/Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch)
        return super().service(handler_call_details)

    def _encode(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.encoded += 1
        reply = pb.EncodeResponse(encodings=[pb.Encoding(states=tensors.encode(sums(X)))])
        return reply.SerializeToString()

    def _watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        health = health_pb2.HealthCheckResponse
        status = health.SERVING if self.is_serving else health.NOT_SERVING
        yield health(status=status).SerializeToString()
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()


class Secured:
    """What runs, and where."""

    def __init__(self, port: int, echo: Echo, tokens: Tokens):
        self.port, self.echo, self.tokens = port, echo, tokens
        self.target = f"127.0.0.1:{port}"


@contextmanager
def secured(
    certificate: trustme.LeafCert | None,
    *tokens: str,
    client_ca: Path | None = None,
    port: int = 0,
) -> Iterator[Secured]:
    """Runs a server with this certificate, or a plain one, that asks for one of these tokens, and
    for a certificate that `client_ca` has signed."""
    echo, asked = Echo(), Tokens(*tokens)
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, [echo], interceptors=[asked], options=[("grpc.so_reuseport", 0)])
        address = f"127.0.0.1:{port}"
        if certificate is None:
            bound = server.add_insecure_port(address)
        else:
            chain, key = _pem(certificate)
            root = client_ca.read_bytes() if client_ca else None
            credentials = grpc.ssl_server_credentials([(key, chain)], root, client_ca is not None)
            bound = server.add_secure_port(address, credentials)
        server.start()
        try:
            yield Secured(bound, echo, asked)
        finally:
            server.stop(None).wait()
