"""Which certificates and keys are taken, and until when they are good."""

from __future__ import annotations

import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from bilstm_server.errors import UnusableFile
from bilstm_server.security.certificates import parse_authorities, parse_key_pair
from tests.security.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_pair(authority: Authority) -> None:
    """A certificate with its key is taken, and its end known. The key is not shown."""
    files = authority.issue(ends_in=3_600.0)
    key, chain = files.pair
    pair = parse_key_pair(chain, key)
    assert pair.ends_at == pytest.approx(time.time() + 3_600, abs=60)
    (logged,) = pair.log_values.values()
    assert datetime.fromisoformat(logged).timestamp() == int(pair.ends_at)
    assert (pair.chain, pair.key) == (chain, key)
    assert "PRIVATE" not in repr(pair)


def test_what_is_no_pair(authority: Authority) -> None:
    """Files of other things, and a key of another certificate, are told apart in words."""
    key, chain = authority.issue().pair
    other, _ = authority.issue().pair
    encrypted = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    for words, data in {
        "is another's": (chain, other),
        "must not be encrypted": (chain, encrypted),
        "private key in PEM": (chain, chain),
        "certificates in PEM": (key, key),
        "have certificates": (b"", key),
        "be a private key": (chain, key[: len(key) // 2]),
    }.items():
        with pytest.raises(UnusableFile, match=words):
            parse_key_pair(*data)


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 1024),
    ],
    ids=["Ed25519", "P-521", "RSA of 1024 bits"],
)
def test_a_key_that_clients_do_not_take(authority: Authority, key: PrivateKeyTypes) -> None:
    """What gRPC's clients could not connect to, or should not, is refused in words."""
    _, chain = authority.issue().pair
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(UnusableFile, match="must be RSA of at least 2048 bits, not RSA-PSS, or of"):
        parse_key_pair(chain, pem)


def test_a_key_that_grpc_does_not_take(tmp_path: Path) -> None:
    """RSA-PSS looks as RSA does. gRPC would keep the pair of before, and say nothing."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = "openssl req -x509 -nodes -newkey rsa-pss -pkeyopt rsa_keygen_bits:2048 -subj /CN=a"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    with pytest.raises(UnusableFile, match="not RSA-PSS"):
        parse_key_pair(certificate.read_bytes(), key.read_bytes())


def test_a_certificate_that_is_not_good_now(authority: Authority) -> None:
    """One that has ended would be refused by every caller, so it is refused here."""
    key, chain = authority.issue(ends_in=-60.0).pair
    with pytest.raises(UnusableFile, match="has ended on 20"):
        parse_key_pair(chain, key)


def test_authorities(tmp_path: Path, authority: Authority) -> None:
    """Several may vouch for callers, as while one follows another."""
    both = authority.certificate + Authority(tmp_path, "second").certificate
    assert parse_authorities(both).certificates == both
    with pytest.raises(UnusableFile, match="must have certificates in PEM"):
        parse_authorities(b"nothing")
