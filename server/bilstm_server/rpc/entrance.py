"""`Entrance`: certificates, tokens and the rules of callers, made as the settings say."""

from __future__ import annotations

from ..metrics import Metrics
from ..security.reloading import Reloading
from ..security.tokens import Tokens, parse_tokens
from ..security.watched import Watched
from ..settings import Settings
from .credentials import TlsCredentials, require_tls
from .health import HEALTH
from .interceptors.authentication import Authentication, CallerRules
from .server import GrpcPort


class Entrance:
    """What a connection and a call must show to be let in."""

    def __init__(self, settings: Settings, metrics: Metrics, reloading: Reloading):
        """Read the files that the settings name, and let `reloading` read them anew.

        Raises `StartError` where other machines would be served without TLS, and `UnusableFile`.
        """
        require_tls(settings, settings.host)
        self._settings = settings
        self._metrics = metrics
        self._tls: TlsCredentials | None = None
        if settings.tls_cert is not None:
            self._tls = TlsCredentials(settings, metrics.file)
            self._tls.watch(reloading)
        self._tokens: Watched[Tokens] | None = None
        if settings.tokens_file is not None:
            paths, counts = [settings.tokens_file], metrics.file("tokens_file")
            self._tokens = Watched("--tokens-file", paths, parse_tokens, counts, secrets=paths)
            reloading.watch(self._tokens, self._tokens_changed)
            metrics.name_callers(self._tokens.value.names)
        rules = CallerRules(
            tokens=self._tokens,
            certificates=settings.certified_connections,
            header=settings.caller_header,
            max_priorities=dict(settings.caller_priority),
            open_services=frozenset({HEALTH} if settings.health == "open" else ()),
        )
        self.authentication = Authentication(rules, metrics.refused_calls, metrics.no_model)

    def ports(self) -> list[GrpcPort]:
        """Return the ports of gRPC: --port, and --tls-client-port where there is one."""
        certified = self._settings.certified_connections
        ports = [self._port("--port", self._settings.port, certified == "all")]
        if (port := self._settings.tls_client_port) is not None:
            ports.append(self._port("--tls-client-port", port, certificates=True))
        return ports

    def _port(self, flag: str, port: int, certificates: bool) -> GrpcPort:
        if self._tls is None:
            return GrpcPort(flag, port, None)
        credentials = self._tls.of_port(certificates=certificates).server_credentials()
        return GrpcPort(flag, port, credentials)

    def _tokens_changed(self) -> None:
        assert self._tokens is not None
        self._metrics.name_callers(self._tokens.value.names)
        self.authentication.tokens_changed()
