"""`Target`: where a client's calls go: the name that was given, checked, with its port; whether it
is one server or several; and the proxy on the way. No I/O.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

DEFAULT_PORT = 50051
_MAX_UNIX_PATH_BYTES = 107
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_PORT = re.compile(r"[0-9]{1,5}")
_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix-abstract|unix|vsock|xds):(//[^/]*/)?(.*)", re.DOTALL)
# A URL whose slashes are missing; `http:8080` is the port of a host that has this name.
_SLASHLESS_URL = re.compile(r"(https?|grpcs?):(?![0-9]*$)", re.IGNORECASE)
_TLS_SCHEMES = ("https", "grpcs")
# As gRPC reads them: the first that is set counts, whatever it says.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """The address of one server, or of several, of which each call takes the next that is ready."""

    name: str  # as gRPC dials it
    is_balanced: bool
    is_direct: bool  # no proxy, whatever the environment says
    proxy: str = ""  # the one on the way, and the variable that names it; empty: none
    is_local: bool = False  # what is sent there stays on this machine
    host: str = ""  # that a certificate must be for; empty: there are several

    @classmethod
    def of(cls, text: str, environment: Mapping[str, str] = os.environ) -> Self:
        """Reads `host`, `host:port`, `[v6]`, `[v6]:port`, `unix:path`, `dns:///host`,
        `ipv4:address,address` or `ipv6:…`; the port is 50051 unless given. `TypeError` or
        `ValueError` if it is none of these."""
        if not isinstance(text, str):
            raise TypeError(f"target must be a str such as 'localhost:50051', got {text!r}")
        try:
            return cls._parsed(text, environment)
        except ValueError as error:
            raise ValueError(f"target {text!r}: {error}") from None

    @classmethod
    def _parsed(cls, text: str, environment: Mapping[str, str]) -> Self:
        scheme, prefix, path = _split(text)
        if scheme in ("unix", "unix-abstract", "vsock", "xds"):
            _check_path(scheme, path)
            is_local = scheme in ("unix", "unix-abstract")
            host = "localhost" if is_local else ""  # as gRPC has it
            return cls(text, False, scheme != "xds", "", is_local, host)
        hosts = path.split(",") if scheme in ("ipv4", "ipv6") else [path]
        dialled = [_host_port(host) for host in hosts]
        if scheme in ("ipv4", "ipv6"):
            for host, _ in dialled:
                _check_literal(host, scheme)
        name = prefix + ",".join(f"{host}:{port}" for host, port in dialled)
        several = len(dialled) > 1
        # A proxy takes one name, and would be told all of them as if they were one.
        is_loopback = all(_is_loopback(host) for host, _ in dialled)
        # A server of names that the target itself has may say anything.
        is_local = prefix == "dns:///" or not prefix.startswith("dns://")
        is_local = is_local and is_loopback and all(_is_never_asked_for(h) for h, _ in dialled)
        host = "" if several else dialled[0][0].strip("[]")
        direct = several or is_loopback
        proxy = "" if direct else _proxy(host, environment)
        return cls(name, several or scheme == "dns", direct, proxy, is_local, host)


def _split(text: str) -> tuple[str, str, str]:
    """The scheme, all that comes before the path, and the path."""
    if match := _SCHEME.fullmatch(text):
        scheme, authority, path = match[1], match[2] or "", match[3]
        if scheme not in ("unix", "vsock", "xds"):
            path = path.removeprefix("/") if not authority else path
        return scheme, f"{scheme}:{authority}", path
    if "://" in text or _SLASHLESS_URL.match(text):
        raise ValueError(_instead_of_url(text))
    return "", "", text


def _instead_of_url(url: str) -> str:
    """What to write in place of a URL, as other clients and servers have them."""
    scheme, separator, rest = url.partition("://" if "://" in url else ":")
    host = rest.partition("/")[0].rpartition("@")[2]
    instead = repr(host) if host else "HOST:PORT"
    tls = ", and give tls=True (--tls)" if scheme.lower() in _TLS_SCHEMES else ""
    return f"write {instead}, without {scheme}{separator}{tls}"


def _check_path(scheme: str, path: str) -> None:
    if not path or "\0" in path:
        raise ValueError(f"{scheme}: must be followed by a path")
    if scheme.startswith("unix") and len(os.fsencode(path)) > _MAX_UNIX_PATH_BYTES:
        raise ValueError(f"a socket's path has at most {_MAX_UNIX_PATH_BYTES} bytes")


def _host_port(text: str) -> tuple[str, int]:
    """The host, an IPv6 address in brackets, and the port."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("must be [IPV6]:PORT")
        return _bracketed(host), _port(rest[1:]) if rest else DEFAULT_PORT
    if text.count(":") > 1:
        return _bracketed(text), DEFAULT_PORT
    host, colon, port = text.partition(":")
    if "," in host:
        raise ValueError("several addresses are ipv4:A:PORT,B:PORT, or one name with dns:///NAME")
    if not _HOST.fullmatch(host):
        raise ValueError("must be HOST:PORT" if host else "must have a host")
    return host, _port(port) if colon else DEFAULT_PORT


def _bracketed(host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{host!r} is no IPv6 address") from None
    return f"[{host}]"


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"the port must be 1 to 65535, got {text!r}")
    return int(text)


def _check_literal(host: str, scheme: str) -> None:
    address = _address(host)
    if address is None or f"ipv{address.version}" != scheme:
        raise ValueError(f"{host!r} is no address of {scheme}")


def _address(host: str) -> Address | None:
    """The IP address that the host is, or None for a name. `127.1` is one, as resolvers read it."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_loopback(host: str) -> bool:
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address is not None and (address.is_loopback or address.is_unspecified)


def _is_never_asked_for(host: str) -> bool:
    """Whether no server of names is asked for the loopback host. Some resolvers of gRPC's ask for
    `127.1`, `a.localhost` or `localhost.`, and would take any answer."""
    if host.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _first(variables: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    return next(((name, environment[name]) for name in variables if name in environment), ("", ""))


def _proxy(host: str, environment: Mapping[str, str]) -> str:
    """The proxy that gRPC takes for the host, without its user and password."""
    variable, url = _first(_PROXY_VARIABLES, environment)
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    address = parts.netloc.rpartition("@")[2]
    if parts.scheme != "http" or not address:  # gRPC takes no other
        return ""
    _, exempt = _first(_NO_PROXY_VARIABLES, environment)
    if any(_matches(host, entry.strip()) for entry in exempt.split(",") if entry):
        return ""
    return f"{address} ({variable})"


def _matches(host: str, entry: str) -> bool:
    if host.lower().endswith(entry.lower()):
        return True
    try:
        return "/" in entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry, False)
    except ValueError:
        return False
