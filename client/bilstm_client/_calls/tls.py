"""`Tls`: what a client trusts, and what it shows of itself as a connection is made. The files are
read and checked once, as the client is made: gRPC would only say that no handshake was possible.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from ..types import CertificateFiles, TlsFrom
from .named_files import named
from .target import Target

VARIABLE = "BILSTM_CA"
_GRPC_ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


@dataclass(frozen=True, slots=True)
class Tls:
    """How connections are secured."""

    credentials: grpc.ChannelCredentials
    server_name: str = ""  # that the server's certificate must have; empty: the target's host

    @classmethod
    def of(
        cls,
        given: TlsFrom | None,
        certificate: CertificateFiles | None,
        server_name: str | None,
        target: Target,
        environment: Mapping[str, str] = os.environ,
    ) -> Self | None:
        """None: connections are plain. `given`: None for what the environment says.

        Raises `TypeError` or `ValueError` for what makes no secure connection, and `OSError` for
        files that can't be read."""
        ca = (environment.get(VARIABLE) or False) if given is None else given
        if ca is False:
            for name, value in (("client_certificate", certificate), ("server_name", server_name)):
                if value:
                    raise ValueError(f"{name}: needs TLS: give tls=True (--tls) or the CA's file")
            return None
        if not server_name and not target.host:
            raise ValueError(
                f"target {target.name!r}: its servers are to have one name in their certificates: "
                "give it as server_name (--server-name)"
            )
        name = "tls" if given is not None else VARIABLE
        roots = _roots(environment) if ca is True else _read_ca(ca, name)
        chain, key = _read_pair(certificate) if certificate is not None else (None, None)
        return cls(grpc.ssl_channel_credentials(roots, key, chain), server_name or "")


def _roots(environment: Mapping[str, str]) -> bytes | None:
    """The certificates that this machine trusts, as Python's `ssl` finds them, also by
    SSL_CERT_FILE. None: those that come with gRPC, or that its own variable names."""
    if environment.get(_GRPC_ROOTS):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    found = map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True))
    return "".join(found).encode() or None


def _read_ca(ca: Any, name: str) -> bytes:
    """Certificates in PEM, which were given themselves or as a file's path."""
    if not isinstance(ca, str | bytes | os.PathLike):
        kind = type(ca).__name__
        raise TypeError(f"tls must be True, False, a CA's file, or its bytes in PEM, got {kind}")
    if isinstance(ca, bytes):
        return _certificates(ca, name)
    with named(name):
        pem = Path(ca).read_bytes()
    return _certificates(pem, f"{name}: {os.fspath(ca)}")


def _read_pair(given: Any) -> tuple[bytes, bytes]:
    """A certificate with its chain, and its key, in PEM."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        kind = type(given).__name__
        raise TypeError(f"client_certificate must be two files, certificate and key, got {kind}")
    certificate, key = map(Path, given)
    with named("client_certificate"):
        pem, secret = certificate.read_bytes(), key.read_bytes()
    chain = _certificates(pem, f"client_certificate: {certificate}")
    if b"ENCRYPTED" in secret:  # to be asked for its password would hold up who has none
        raise ValueError(f"client_certificate: {key}: must be a key without a password")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"client_certificate: {key}: is not {certificate}'s key") from None
        raise ValueError(f"client_certificate: {key}: must hold a private key, in PEM") from None
    return chain, secret


def _certificates(pem: bytes, what: str) -> bytes:
    """What was read, if it holds certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("latin-1"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{what}: must hold certificates, in PEM") from None
    return pem
