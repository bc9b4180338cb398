"""Who calls: what a call's metadata, its certificate and its connection say of that. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TypeAlias

from ..callers import Priority
from ..errors import Unauthenticated
from ..quoting import one_line
from ..security.certificates import certificate_end, certificate_name
from .flow.connections import network_of, peer_address

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"
AuthContext: TypeAlias = "Mapping[str, Iterable[bytes]]"  # as gRPC gives it

_CERTIFICATE = "x509_pem_cert"
_TOKEN_KEY = "authorization"
_SCHEME = "bearer "
_PRIORITY_KEY = "bilstm-priority"
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_NAME_CHARACTERS, _HASH_CHARACTERS = 100, 32
_UNIX = "unix"


def has_token(metadata: Metadata) -> bool:
    """Tell whether a call presents a token, good or not."""
    return any(key == _TOKEN_KEY for key, _ in metadata)


def presented_token(metadata: Metadata) -> str:
    """Return the token of a call. Raises `Unauthenticated` where there is none, or several."""
    values = [value for key, value in metadata if key == _TOKEN_KEY]
    if not values:
        raise Unauthenticated("needs a token, in the metadata as authorization: Bearer TOKEN")
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not value.lower().startswith(_SCHEME):
        raise Unauthenticated("authorization in the metadata must be Bearer TOKEN, once")
    return value[len(_SCHEME) :].strip()


def asked_priority(metadata: Metadata) -> Priority:
    """Return the priority that a call asks for; NORMAL where it asks for none that is known."""
    for key, value in metadata:
        if key == _PRIORITY_KEY and isinstance(value, str):
            return _PRIORITIES.get(value.strip().lower(), Priority.NORMAL)
    return Priority.NORMAL


def forwarded_name(metadata: Metadata, header: str) -> str:
    """Return what a proxy has written last into this header, or an empty string.

    What stands before may be of the caller's own making.
    """
    values = [value for key, value in metadata if key == header and isinstance(value, str)]
    if not values:
        return ""
    return _bounded(values[-1].rpartition(",")[2].strip())


def has_certificate(auth: AuthContext) -> bool:
    """Tell whether the caller has shown a certificate when the connection was made."""
    return bool(auth.get(_CERTIFICATE))


def caller_certificate_end(auth: AuthContext) -> float:
    """Return when the certificate of a connection ends, in seconds since 1970."""
    return certificate_end(next(iter(auth.get(_CERTIFICATE, ())), b""))


def caller_certificate_name(auth: AuthContext) -> str:
    """Return whom the certificate of a connection names; empty if it names nobody.

    It is read here, as gRPC ends the names that it tells at their first zero byte: `boss` would be
    the name of one for `boss\\0.example.org`.
    """
    return _bounded(certificate_name(next(iter(auth.get(_CERTIFICATE, ())), b"")))


def _bounded(name: str) -> str:
    """Return a name on one line. Of a long one it is the beginning, and a hash by which it differs
    from others that begin so."""
    line = one_line(name, len(name))
    if len(line) <= _NAME_CHARACTERS:
        return line
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    return f"{line[: _NAME_CHARACTERS - _HASH_CHARACTERS - 1]}…{digest}"


@lru_cache(maxsize=4_096)
def peer_name(peer: str) -> str:
    """Return the address of a call's peer without its port, `unix` for one of a Unix socket.

    Of IPv6 it is the network of 64 bits: within it, one caller could be many.
    """
    found = peer_address(peer)
    return peer.partition(":")[0] if found is None else network_of(found[0])


def is_peer_name(name: str) -> bool:
    """Whether a call's peer can have this name."""
    if name == _UNIX:
        return True
    try:
        network = ipaddress.ip_network(name)
    except ValueError:
        return False
    return network_of(str(network.network_address)) == name
