"""Names and priorities, as metadata and peers have them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.callers import Priority
from bilstm_server.rpc.identity import (
    asked_priority,
    caller_certificate_name,
    forwarded_name,
    is_peer_name,
    peer_name,
)


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:192.0.2.7:50000", "192.0.2.7"),
        ("ipv6:%5B::1%5D:50000", "::1"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:50000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50000", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2::9%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", "fe80::/64"),
        ("unix:", "unix"),
        ("unix:/run/socket", "unix"),
        ("", ""),
    ],
)
def test_peers(peer: str, name: str) -> None:
    """A peer is its address without the port; of IPv6 the network that one site has."""
    assert peer_name(peer) == name
    assert is_peer_name(name) == bool(name)


@given(st.text() | st.from_regex(r"ipv[46]:.*:[0-9]+", fullmatch=True))
def test_any_peer(peer: str) -> None:
    """No peer is so odd that it has no name."""
    assert isinstance(peer_name(peer), str)


@given(st.ip_addresses())
def test_every_address_is_a_name(address: IPv4Address | IPv6Address) -> None:
    """Whatever address a call comes from, its caller's name is one that a peer can have."""
    host = address if address.version == 4 else f"%5B{address}%5D"
    assert is_peer_name(peer_name(f"ipv{address.version}:{host}:50000"))


@pytest.mark.parametrize(
    "name", ["search", "", "localhost", "192.0.2.0/24", "192.0.2.7:50000", "2001:db8::9"]
)
def test_names_of_no_peer(name: str) -> None:
    """No caller without a token and a certificate is called so."""
    assert not is_peer_name(name)


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        ("low", Priority.LOW),
        (" High ", Priority.HIGH),
        ("normal", Priority.NORMAL),
        ("urgent", Priority.NORMAL),
        ("2", Priority.NORMAL),
        ("", Priority.NORMAL),
    ],
)
def test_priorities(value: str, priority: Priority) -> None:
    """A call asks for a priority by its name; what is none is NORMAL."""
    assert asked_priority([("a", "b"), ("bilstm-priority", value)]) is priority
    assert asked_priority([("a", "b")]) is Priority.NORMAL


@given(st.lists(st.tuples(st.just("x-caller"), st.text()), min_size=1))
def test_forwarded_names_are_short_and_printable(metadata: list[tuple[str, str]]) -> None:
    """Whatever a proxy passes on, a name of it is one short line."""
    name = forwarded_name(metadata, "x-caller")
    assert name.isprintable()
    assert len(name) <= 100


def test_long_names_differ() -> None:
    """Two callers whose long names begin alike are two callers."""
    path = "spiffe://example.org/" + 100 * "x"
    names = {forwarded_name([("x-caller", f"{path}/{end}")], "x-caller") for end in "ab"}
    assert len(names) == 2


def test_no_certificate() -> None:
    """A connection without a certificate, or with one that can't be read, names nobody."""
    assert caller_certificate_name({}) == ""
    assert caller_certificate_name({"x509_pem_cert": [b"none"]}) == ""
