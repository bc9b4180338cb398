"""Damaged handshakes of TLS, and what is no TLS, against a server that has it: a connection for
each, as in `connections`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import trustme

from ..findings import Finding
from .connections import WARM_UP, ended, send
from .messages import damaged_bytes
from .standing import attacks
from .traffic import Traffic, numbered, recorded

NAME = "fuzz-handshakes"
CASES = 20_000
SEED = 0
_HOST = "127.0.0.1"
_RECORDS = (20, 21, 22, 23, 24, 0, 255)  # kinds of TLS's records, and some that are none


def trial(cases: int = CASES) -> Iterator[Finding]:
    sent = f"{cases:,} connections, damaged handshakes of TLS, seed {SEED}"
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        flags, authority = _certificate(Path(folder))
        yield from attacks(
            NAME,
            sent,
            warm_up=lambda target: send(target, cases_of(recorded(), cases // WARM_UP), Counter()),
            attack=lambda target: send(target, cases_of(recorded(), cases), ends),
            flags=flags,
            authority=authority,
        )
    yield from ended(NAME, sent, ends)


def _certificate(folder: Path) -> tuple[list[str], Path]:
    """The flags that have a server serve with TLS, and the authority that its callers trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert(_HOST)
    issued.private_key_pem.write_to_path(str(folder / "tls.key"))
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    flags = [f"--tls-cert={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}"]
    return flags, folder / "ca.pem"


def cases_of(traffic: Traffic, count: int, seed: int = SEED) -> Iterator[tuple[int, bytes]]:
    """What each connection sends, and its number: a hello that is damaged, or a good one and then
    records of anything; or what clients without TLS send."""
    for number, random in numbered(seed, count):
        match random.randrange(10):
            case 0:
                yield number, random.choice(traffic.connections)
            case 1 | 2 | 3:
                body = random.randbytes(random.choice((0, 1, 2, 40, 5_000)))
                length = random.choice((len(body), len(body), 0, 65_535)).to_bytes(2, "big")
                yield number, traffic.hello + bytes((random.choice(_RECORDS), 3, 3)) + length + body
            case _:
                yield number, damaged_bytes(traffic.hello, random)
