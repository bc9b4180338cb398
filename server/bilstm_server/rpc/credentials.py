"""The certificates that gRPC serves with, and when it must not serve without."""

from __future__ import annotations

from collections.abc import Callable

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

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC listens with.

        It asks at each handshake what to use, and is told anew even where nothing has changed: else
        it would let callers resume their sessions, and not look at certificates then that have
        ended meanwhile.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, self._authorities is not None
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return what the next connection is made with. Threads of gRPC's call it."""
        pair, authorities = self._pair.value, self._authorities
        return grpc.ssl_server_certificate_configuration(
            [(pair.key, pair.chain)],
            None if authorities is None else authorities.value.certificates,
        )

    def _changed(self) -> None:
        self._pair_metrics.certificate_ends(self._pair.value.ends_at)
        if self._authorities is not None:
            self._authorities_metrics.certificate_ends(self._authorities.value.ends_at)
