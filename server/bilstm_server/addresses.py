"""Addresses to listen on: how they are written, and which flag to blame where one can't be had."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path

from .errors import ListenError
from .quoting import quoted

_UNIX, _ABSTRACT = "unix:", "unix-abstract:"
_OF_THE_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_BACKLOG = 128


def parse_host(value: str) -> str:
    """A name or an address, IPv6 in brackets or not; or a unix socket, as gRPC writes it:
    `unix:PATH` or `unix-abstract:NAME`. Raises `ValueError`."""
    if not value.isprintable() or not value.strip():
        raise ValueError(f"must be an address to listen on, got {quoted(value)}")
    if value in (_UNIX, _ABSTRACT):
        raise ValueError(f"must name a socket behind {value}")
    if value.startswith("[") and value.endswith("]"):
        return value[1:-1]
    return value


def is_unix(host: str) -> bool:
    """Whether the host is a Unix socket."""
    return host.startswith((_UNIX, _ABSTRACT))


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens there: a Unix socket, or loopback. A name
    that can't be resolved is not local: it may be found when it is listened on."""
    if is_unix(host):
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def target(host: str, port: int) -> str:
    """The address in the words in which gRPC takes it."""
    if is_unix(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_address(host: str, what: str, host_flag: str) -> None:
    """Raise `ListenError` if the host is a name that can't be resolved; `what` is to be served."""
    if is_unix(host):
        return
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _listen_error(what, host, host_flag, error) from error


def open_socket(host: str, port: int, what: str, host_flag: str, port_flag: str) -> socket.socket:
    """A socket that listens there. Raises `ListenError`, with the flag that is to blame; `what` is
    to be served."""
    where = target(host, port)
    try:
        if is_unix(host):
            flag = host_flag
            return _unix_socket(host)
        flag = host_flag  # if it can't be resolved
        (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        flag = port_flag
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both
        )
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) in _OF_THE_HOST:
            flag = host_flag
        raise _listen_error(what, where, flag, error) from error


def _listen_error(what: str, where: str, flag: str, error: Exception) -> ListenError:
    reason = getattr(error, "strerror", None) or error
    return ListenError(f"can't serve {what} on {where} ({flag}): {reason}")


def _unix_socket(host: str) -> socket.socket:
    """It takes the place of one that nobody listens on any more."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        if host.startswith(_ABSTRACT):
            listening.bind("\0" + host.removeprefix(_ABSTRACT))
        else:
            path = host.removeprefix(_UNIX).removeprefix("//")
            if Path(path).is_socket() and not _answers(path):
                os.unlink(path)
            listening.bind(path)
    except OSError:
        listening.close()
        raise
    return listening


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as caller, suppress(ConnectionRefusedError):
        caller.connect(path)
        return True
    return False
