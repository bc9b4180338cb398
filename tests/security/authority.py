"""Authorities of a test's own, and what they vouch for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

TOKEN = "a-token-of-a-test-that-no-log-may-ever-show-1"
OTHER_TOKEN = "another-token-of-a-test-that-stays-unseen-2"


@dataclass(frozen=True)
class Files:
    """A certificate and its key, in PEM and in files."""

    certificate: Path
    key: Path

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The key and the certificate, in the order in which gRPC takes them."""
        return self.key.read_bytes(), self.certificate.read_bytes()


class Authority:
    """Someone who vouches for servers and callers, in a folder of the test's."""

    def __init__(self, folder: Path, name: str = "authority"):
        self._folder = folder
        self._made = 0
        self._authority = trustme.CA(organization_name=name)
        self.path = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.path))

    @property
    def certificate(self) -> bytes:
        return self._authority.cert_pem.bytes()

    def issue(
        self, *names: str, common_name: str | None = None, ends_in: float = 86_400.0
    ) -> Files:
        """Vouch for these names, by default `localhost` and 127.0.0.1, for so many seconds."""
        ends_at = datetime.now(UTC) + timedelta(seconds=ends_in)
        begins_at = min(datetime.now(UTC), ends_at) - timedelta(days=1)
        issued = self._authority.issue_cert(
            *(names or ("localhost", "127.0.0.1")),
            common_name=common_name,
            not_before=begins_at.replace(tzinfo=None),
            not_after=ends_at.replace(tzinfo=None),
        )
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        return self._write(chain, issued.private_key_pem.bytes())

    def issue_nameless(self) -> Files:
        """Vouch for somebody without saying for whom."""
        own = x509.load_pem_x509_certificate(self.certificate)
        signing: Any = load_pem_private_key(self._authority.private_key_pem.bytes(), None)
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(own.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(signing, SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._write(certificate.public_bytes(Encoding.PEM), private)

    def _write(self, chain: bytes, key: bytes) -> Files:
        self._made += 1
        files = Files(
            self._folder / f"{self.path.stem}-{self._made}.pem",
            self._folder / f"{self.path.stem}-{self._made}.key",
        )
        files.certificate.write_bytes(chain)
        files.key.write_bytes(key)
        files.key.chmod(0o600)
        return files
