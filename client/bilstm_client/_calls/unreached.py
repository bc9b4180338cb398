"""gRPC's words of a server that it did not reach, as the user's: where, as that was given and with
its port, why, and what may help. Words that are not known here stay as they are.
"""

from __future__ import annotations

import re

from ..errors import NotTrusted, Unavailable
from .target import Target
from .tls import Tls

_FAILED = re.compile(
    r"(?:failed to connect to all addresses|connections to all backends failing); last error: "
    r"(?:[A-Z_]+: (?:(?:ipv4|ipv6|unix|unix-abstract|vsock):\S+: )?)?"  # a status and an address
)
_UNRESOLVED = "errors resolving "
_REFUSED = "Connection refused"
_NOT_THERE = (_REFUSED, "No such file or directory")
_NO_GRPC = re.compile(r"parsing HTTP/2|http1", re.IGNORECASE)
_CLOSED = "Socket closed"  # before it has said anything
_UNHEALTHY = "health check call failed"  # which gRPC makes by itself, without any token
_HANDSHAKE = re.compile(r"(?:Tls|Ssl) handshake failed \(\w+\): (?:SSL_ERROR_SSL: error:\w+:)?")
_UNVERIFIED = re.compile(r"CERTIFICATE_VERIFY_FAILED: (.*?)(?:: OK)?$")
_WRONG_NAME = "Hostname Verification Check failed"
_IN_TIME = "certificate is not yet valid"  # another attempt may help
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")
_NO_HTTP2 = "missing selected ALPN"


def unreached(details: str, target: Target, tls: Tls | None) -> tuple[type[Unavailable], str]:
    """What an UNAVAILABLE is, by the details that gRPC gives of it, and what it is to say."""
    if details.startswith(_UNRESOLVED):
        reason = details.rstrip("]").rpartition(": ")[2]
        return Unavailable, _no_server(target, reason)
    if not (failed := _FAILED.match(details)):
        return Unavailable, details
    said = details[failed.end() :]
    if tls is not None and (distrust := _distrust(said, target, tls)):
        # Of several, others may be trusted.
        is_final = not target.is_balanced and _IN_TIME not in said
        kind = NotTrusted if is_final else Unavailable
        return kind, f"the server at {target.name} is not trusted: {distrust}"
    return Unavailable, _no_server(target, _explained(said, tls))


def _no_server(target: Target, reason: str) -> str:
    return f"no server answers at {target.name}: {reason}"


def _distrust(said: str, target: Target, tls: Tls) -> str:
    """Why the client has ended the handshake; empty if it has not."""
    if unverified := _UNVERIFIED.search(said):
        reason = unverified[1]
        if "issuer" in reason or "self" in reason:
            reason = (
                f"its certificate is signed by none that is trusted here ({reason}); give its CA's "
                "file as tls= (--ca, BILSTM_CA)"
            )
        return reason if reason.startswith("its ") else f"its {reason}"
    if _WRONG_NAME in said:
        name = tls.server_name or target.host
        return (
            f"its certificate is not for {name!r}; if it is the right server, give a name that the "
            "certificate has as server_name= (--server-name)"
        )
    if any(words in said for words in _NO_TLS):
        return "it has no TLS; is this the right port?"
    return "it has no gRPC over its TLS; is this the right port?" if _NO_HTTP2 in said else ""


def _explained(said: str, tls: Tls | None) -> str:
    """What the operating system says of a connection, and a hint where one is known."""
    if _NO_GRPC.search(said):
        return (
            "this looks like no gRPC port (bilstm-server has gRPC on 50051, unless set otherwise)"
        )
    if said == _CLOSED:
        if tls is None:
            return f"{said} (if it has TLS, give tls=True or its CA's file: --tls, --ca)"
        return (
            f"{said} (it may ask for a client certificate, or for another one than it got: "
            "client_certificate=, --client-certificate)"
        )
    if _UNHEALTHY in said:
        return f"{_UNHEALTHY} (several servers must tell it to all: bilstm-server --health open)"
    if handshake := _HANDSHAKE.match(said):
        return f"the TLS handshake failed: {said[handshake.end() :]}"
    reason = said.removeprefix("Failed to connect to remote host: ")
    if reason.startswith("connect failed: addr: "):  # of a unix socket
        reason = reason.rpartition(" error: ")[2]
    if reason not in _NOT_THERE:
        return reason
    if tls is not None and reason == _REFUSED:
        # A name may have several addresses, and gRPC tells of one: localhost's other one, say.
        return (
            f"{reason} (is bilstm-server running there? If so, it may take no such client "
            "certificate: client_certificate=, --client-certificate)"
        )
    return f"{reason} (is bilstm-server running there?)"
