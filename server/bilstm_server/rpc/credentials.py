"""The certificates that gRPC serves with, and when it must not serve without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from ..addresses import is_local
from ..errors import StartError
from ..metrics import FileMetrics
from ..security.certificates import Authorities, KeyPair, parse_authorities, parse_key_pair
from ..security.reloading import Reloading
from ..security.watched import Watched
from ..settings import TlsSettings


def require_tls(settings: TlsSettings, host: str) -> None:
    """Raise `StartError` where other machines would be served without TLS, and nobody said so."""
    if settings.tls_cert is None and not settings.insecure and not is_local(host):
        raise StartError(
            f"--host {host} would serve other machines without TLS: give --tls-cert and --tls-key; "
            "or --insecure, where something in front of the server has TLS; or --host 127.0.0.1"
        )


class TlsCredentials:
    """What gRPC proves the server by, and what callers must prove themselves by.

    Connections that are made later are made with what the files hold then. Those that are open
    stay.
    """

    def __init__(self, settings: TlsSettings, metrics: Callable[[str], FileMetrics]):
        """Read the files that the settings name. `metrics` are those of a setting's file. Raises
        `UnusableFile`."""
        assert settings.tls_cert is not None
        assert settings.tls_key is not None
        self._pair_metrics = metrics("tls_cert")
        self._pair: Watched[KeyPair] = Watched(
            "--tls-cert, --tls-key",
            [settings.tls_cert, settings.tls_key],
            parse_key_pair,
            self._pair_metrics,
            secrets=[settings.tls_key],
        )
        self._authorities: Watched[Authorities] | None = None
        if settings.tls_client_ca is not None:
            self._authorities_metrics = metrics("tls_client_ca")
            self._authorities = Watched(
                "--tls-client-ca",
                [settings.tls_client_ca],
                parse_authorities,
                self._authorities_metrics,
            )
        self._changed()

    def watch(self, reloading: Reloading) -> None:
        """Let the files be read anew."""
        reloading.watch(self._pair, self._changed)
        if self._authorities is not None:
            reloading.watch(self._authorities, self._changed)

    def of_port(self, *, certificates: bool) -> PortCredentials:
        """Return those of one port. With `certificates` callers must have one there, and without
        they are asked for none. There must be authorities for it."""
        assert not certificates or self._authorities is not None
        return PortCredentials(self._pair, self._authorities if certificates else None)

    def _changed(self) -> None:
        self._pair_metrics.certificate_ends(self._pair.value.ends_at)
        if self._authorities is not None:
            self._authorities_metrics.certificate_ends(self._authorities.value.ends_at)


class PortCredentials:
    """What the connections of one port are made with."""

    def __init__(self, pair: Watched[KeyPair], authorities: Watched[Authorities] | None):
        """Callers need a certificate if there are `authorities`."""
        self._pair = pair
        self._authorities = authorities
        self._given = self._in_effect

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC listens with.

        It asks at each handshake for what is new. What it has must not be replaced for nothing: a
        handshake that begins at that moment in another thread may use what was just let go, and
        gRPC's core would abort the process.
        """
        news: Any = self._news  # the stub knows no None
        return grpc.dynamic_ssl_server_credentials(
            _configuration(*self._given), news, self._authorities is not None
        )

    @property
    def _in_effect(self) -> tuple[KeyPair, Authorities | None]:
        return self._pair.value, None if self._authorities is None else self._authorities.value

    def _news(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the next connection is made with, or None for what gRPC has. Its threads
        call it, one at a time."""
        in_effect = self._in_effect
        if in_effect == self._given:
            return None
        self._given = in_effect
        return _configuration(*in_effect)


def _configuration(
    pair: KeyPair, authorities: Authorities | None
) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pair.key, pair.chain)], None if authorities is None else authorities.certificates
    )
