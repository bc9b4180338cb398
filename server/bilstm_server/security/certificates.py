"""Certificates and keys: read, held against each other, and whom and until when they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import (
    Certificate,
    DNSName,
    ExtensionNotFound,
    IPAddress,
    RFC822Name,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    load_pem_x509_certificate,
    load_pem_x509_certificates,
)
from cryptography.x509.oid import NameOID, PublicKeyAlgorithmOID

from ..errors import UnusableFile

_RSA_BITS = 2_048  # at the least
_KEYS = (PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5, PublicKeyAlgorithmOID.EC_PUBLIC_KEY)
_CURVES = ("secp256r1", "secp384r1")
_NAMES = DNSName | UniformResourceIdentifier | RFC822Name | IPAddress


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A server's certificate with those that vouch for it, and its key, both in PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    ends_at: float  # seconds since 1970: from then on callers refuse it

    @property
    def log_values(self) -> dict[str, str]:
        """What the log says of the certificate: when it ends."""
        return _log_values(self.ends_at)


@dataclass(frozen=True, slots=True)
class Authorities:
    """Certificates of those who may vouch for callers, in PEM."""

    certificates: bytes
    ends_at: float  # seconds since 1970, of the one that ends first

    @property
    def log_values(self) -> dict[str, str]:
        """What the log says of them: when the first one ends."""
        return _log_values(self.ends_at)


def parse_key_pair(chain: bytes, key: bytes) -> KeyPair:
    """Read a server's certificate and its key, which must belong together, and be valid now.

    Raises `UnusableFile`, which tells nothing of the key.
    """
    certificates = _certificates(chain)
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise UnusableFile("the key must not be encrypted: nobody is there to decrypt it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableFile("the key must be a private key in PEM") from None
    own = certificates[0]
    if own.public_key_algorithm_oid not in _KEYS or not _is_taken(private.public_key()):
        raise UnusableFile(
            f"the key must be RSA of at least {_RSA_BITS} bits, not RSA-PSS, or of the curve P-256 "
            "or P-384; most clients take no other"
        )
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != own.public_key().public_bytes(*form):
        raise UnusableFile("the key must be the one of the first certificate, and is another's")
    _require_valid(certificates)
    return KeyPair(chain, key, _end(certificates))


def parse_authorities(data: bytes) -> Authorities:
    """Read the certificates of those who may vouch for callers. Raises `UnusableFile`."""
    certificates = _certificates(data)
    now = datetime.now(UTC)
    valid = [each for each in certificates if now <= each.not_valid_after_utc]
    if not valid:  # old ones may stay beside a new one
        raise UnusableFile("all its certificates have ended")
    return Authorities(data, _end(valid))


@lru_cache(maxsize=4_096)
def certificate_name(data: bytes) -> str:
    """Return whom a certificate in PEM names: its subject's common name, else the first of its
    alternative names; empty if it names nobody."""
    try:
        certificate = load_pem_x509_certificate(data)
        subject = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(each.value) for each in (*subject, *_alternative_names(certificate))]
    except ValueError:
        return ""
    return next((name for name in names if name.strip()), "")


@lru_cache(maxsize=1_024)
def certificate_end(data: bytes) -> float:
    """Return when a certificate in PEM ends, in seconds since 1970; 0 for what is none."""
    try:
        return load_pem_x509_certificate(data).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def _alternative_names(certificate: Certificate) -> list[_NAMES]:
    try:
        found = certificate.extensions.get_extension_for_class(SubjectAlternativeName)
    except ExtensionNotFound:
        return []
    return [name for name in found.value if isinstance(name, _NAMES)]


def _certificates(data: bytes) -> list[Certificate]:
    try:
        return load_pem_x509_certificates(data)
    except ValueError:
        raise UnusableFile("must have certificates in PEM") from None


def _is_taken(key: object) -> bool:
    if isinstance(key, RSAPublicKey):
        return key.key_size >= _RSA_BITS
    return isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES


def _require_valid(chain: Sequence[Certificate]) -> None:
    now = datetime.now(UTC)
    for certificate in chain:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > end:
            raise UnusableFile(f"a certificate has ended on {end:%Y-%m-%d %H:%M} UTC")
        if now < begin:
            raise UnusableFile(f"a certificate begins on {begin:%Y-%m-%d %H:%M} UTC only")


def _end(certificates: Iterable[Certificate]) -> float:
    return min(each.not_valid_after_utc for each in certificates).timestamp()


def _log_values(ends_at: float) -> dict[str, str]:
    return {"certificate_ends": f"{datetime.fromtimestamp(ends_at, UTC):%Y-%m-%dT%H:%M:%SZ}"}
