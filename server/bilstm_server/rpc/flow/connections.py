"""The connections of this process, found among its descriptors, and their ends: what gRPC's servers
have no word for.

A reply that its caller does not take stays in gRPC's memory until the call ends, and a call whose
status was sent can't be ended from here any more; its connection can.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

_DESCRIPTORS = Path("/proc/self/fd")
_NO_ADDRESS = ("unix", 0)
_NETWORK_BITS = 64  # of an address of IPv6 say whose it is: one host may have all the others

Address = tuple[str, int]  # host and port


def has_descriptors() -> bool:
    """Tell whether this system lists the process's descriptors, so that connections are found."""
    return _DESCRIPTORS.is_dir()


def count_descriptors() -> int:
    """Count what the process has open, connections among it. It costs much less than to find
    them."""
    return len(os.listdir(_DESCRIPTORS))


def has_name(peer: str) -> bool:
    """Tell whether the peer's connection can be told from others. Those of a Unix socket can't."""
    return not peer.startswith("unix")


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that the server has accepted."""

    descriptor: int
    number: int  # the socket's own in the system (inode), which no other one has meanwhile
    address: Address  # the peer's; all of a Unix socket have ("unix", 0)

    def end(self) -> bool:
        """Shut it down. Returns False if it has ended meanwhile."""
        return _end_if(self.descriptor, self._is_this)

    def _is_this(self, found: socket.socket) -> bool:
        return os.fstat(found.fileno()).st_ino == self.number


class ConnectionFinder:
    """Finds the connections that a server has accepted on its ports; port 0 stands for a Unix
    socket. Those found before are known again, which costs less."""

    def __init__(self, *ports: int):
        self._ports = ports
        self._known: dict[tuple[int, int], Connection | None] = {}  # None: another socket

    def find(self) -> list[Connection]:
        """Return those that are open now, the ones that were found first first."""
        sockets: set[tuple[int, int]] = set()
        for name in os.listdir(_DESCRIPTORS):
            with suppress(OSError):  # closed meanwhile
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    sockets.add((int(name), status.st_ino))
        new = sorted(sockets - self._known.keys(), key=lambda key: key[1])
        known = {key: found for key, found in self._known.items() if key in sockets}
        self._known = known | {key: self._connection(*key) for key in new}
        return [found for found in self._known.values() if found is not None]

    def _connection(self, descriptor: int, number: int) -> Connection | None:
        """What the descriptor is, if it is a connection of this server's."""
        with suppress(OSError), _socket_of(descriptor) as found:
            address = _peer_of(found)
            if address is not None and self._is_ours(found):
                return Connection(descriptor, number, address)
        return None

    def _is_ours(self, found: socket.socket) -> bool:
        return (0 if found.family == socket.AF_UNIX else found.getsockname()[1]) in self._ports


def end_connection(peer: str) -> bool:
    """Shut down the connection of the peer, named as a call's context names it. Of a Unix socket,
    whose peers have no names, shut down all connections.

    gRPC finds it closed, and ends its calls. Of a peer that has two, from the same port of its own
    to two of the server's, both are. Returns False if there is none.
    """
    address = peer_address(peer) if has_name(peer) else _NO_ADDRESS
    if address is None:
        return False
    names = os.listdir(_DESCRIPTORS)
    ended = [_end_if(int(name), lambda found: _peer_of(found) == address) for name in names]
    return any(ended)


def _end_if(descriptor: int, is_meant: Callable[[socket.socket], bool]) -> bool:
    """Shut down what the descriptor is, if it is a socket that is meant."""
    try:
        with _socket_of(descriptor) as found:
            if not is_meant(found):
                return False
            found.shutdown(socket.SHUT_RDWR)
    except OSError:  # no socket, one that listens, or one that has ended
        return False
    return True


@contextmanager
def _socket_of(descriptor: int) -> Iterator[socket.socket]:
    """The socket that the descriptor is. Raises `OSError` if it is none."""
    # A copy: gRPC may close its own, and open another one under the number, at any time.
    copy = os.dup(descriptor)
    if not stat.S_ISSOCK(os.fstat(copy).st_mode):
        os.close(copy)
        raise OSError("no socket")
    with socket.socket(fileno=copy) as found:
        yield found


def _peer_of(connection: socket.socket) -> Address | None:
    """Return the address of the socket's peer, if it is a connection that may have been accepted.
    Raises `OSError` if it is none, or has ended."""
    if connection.family == socket.AF_UNIX:
        # What this process has connected itself has no name on its own side.
        is_stream = connection.type == socket.SOCK_STREAM
        accepted = is_stream and connection.getsockname() and not connection.getpeername()
        return _NO_ADDRESS if accepted else None
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    host, port, *_ = connection.getpeername()
    return _host(host), port


def peer_address(peer: str) -> Address | None:
    """Return host and port of a peer such as `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`, or
    None of another kind."""
    scheme, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if scheme not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _host(host.strip("[]")), int(port)


def network_of(host: str) -> str:
    """Return who is at the address, as connections and callers are counted: of IPv6 its network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # of a Unix socket
        return host
    if address.version == 4 or address.is_loopback:
        return host
    return str(ipaddress.ip_network((int(address), _NETWORK_BITS), strict=False))


def _host(host: str) -> str:
    """Return the one spelling of an address, whether IPv4 comes as such or inside of IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
