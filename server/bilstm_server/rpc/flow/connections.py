"""To end a connection: what gRPC's servers have no word for.

A reply that its caller does not take stays in gRPC's memory until the call ends, and a call whose
status was sent can't be ended from here any more; its connection can.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from pathlib import Path
from urllib.parse import unquote

_DESCRIPTORS = Path("/proc/self/fd")


def has_name(peer: str) -> bool:
    """Tell whether the peer's connection can be told from others. Those of a Unix socket can't."""
    return not peer.startswith("unix")


def end_connection(peer: str) -> bool:
    """Shut down the connection of the peer, named as a call's context names it. Of a Unix socket,
    whose peers have no names, shut down all connections.

    gRPC finds it closed, and ends its calls. Returns False if there is none.
    """
    address = peer_address(peer) if has_name(peer) else None
    if address is None and has_name(peer):
        return False
    ended = [_end_if(int(name), address) for name in os.listdir(_DESCRIPTORS)]
    return any(ended)


def _end_if(descriptor: int, address: tuple[str, int] | None) -> bool:
    """Shut down what the descriptor is, if it is a connection to that address, or, without one, a
    connection that a Unix socket has accepted."""
    try:
        # A copy: gRPC may close its own, and open another one under the number, at any time.
        copy = os.dup(descriptor)
    except OSError:
        return False
    if not stat.S_ISSOCK(os.fstat(copy).st_mode):
        os.close(copy)
        return False
    with socket.socket(fileno=copy) as connection:
        try:
            if not _is_of(connection, address):
                return False
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # one that listens, or has ended
            return False
    return True


def _is_of(connection: socket.socket, address: tuple[str, int] | None) -> bool:
    if address is None:
        # What this process has connected itself has no name on its own side.
        is_stream = connection.family == socket.AF_UNIX and connection.type == socket.SOCK_STREAM
        return is_stream and bool(connection.getsockname()) and not connection.getpeername()
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    host, port, *_ = connection.getpeername()
    return (_host(host), port) == address


def peer_address(peer: str) -> tuple[str, int] | None:
    """Return host and port of a peer such as `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`, or
    None of another kind."""
    scheme, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if scheme not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _host(host.strip("[]")), int(port)


def _host(host: str) -> str:
    """Return the one spelling of an address, whether IPv4 comes as such or inside of IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
