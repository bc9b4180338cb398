"""`Entrance`: certificates, tokens and the rules of callers, made as the settings say."""

from __future__ import annotations

from itertools import chain

import structlog

from ..addresses import require_address
from ..metrics import Metrics
from ..security.reloading import Reloading
from ..security.tokens import Tokens, parse_tokens
from ..security.watched import Watched
from ..settings import Settings
from .credentials import TlsCredentials, require_tls
from .health import HEALTH
from .identity import is_peer_name
from .interceptors.authentication import Authentication, CallerRules
from .server import GrpcPort

log = structlog.get_logger()


class Entrance:
    """What a connection and a call must show to be let in."""

    def __init__(self, settings: Settings, metrics: Metrics, reloading: Reloading):
        """Read the files that the settings name, and let `reloading` read them anew.

        Raises `StartError` where other machines would be served without TLS, `ListenError` where
        nobody knows whether they would, and `UnusableFile`.
        """
        require_address(settings.host, "gRPC", "--host")
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
        rules = CallerRules(
            tokens=self._tokens,
            certificates=settings.certified_connections,
            header=settings.caller_header,
            max_priorities=dict(settings.caller_priority),
            open_services=frozenset({HEALTH} if settings.health == "open" else ()),
        )
        self.authentication = Authentication(rules, metrics.refused_calls, metrics.no_model)
        self._name_callers()

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
        self._name_callers()
        self.authentication.tokens_changed()

    def _name_callers(self) -> None:
        """Let metrics tell apart the callers that tokens and settings name, and say which names of
        the settings nobody can have."""
        shares, priorities = self._settings.caller_share, self._settings.caller_priority
        given = {
            "--caller-share": [share.name for share in shares],
            "--caller-priority": [priority.name for priority in priorities],
        }
        names = self._tokens.value.names if self._tokens is not None else frozenset[str]()
        self._metrics.name_callers({*names, *chain(*given.values())})
        for setting, callers in given.items():
            if unknown := [name for name in callers if not self._can_be(name)]:
                log.warning("no such caller", setting=setting, names=unknown, reason=self._naming)

    def _can_be(self, name: str) -> bool:
        """Whether a caller can have this name, as far as the server knows."""
        certified = self._settings.certified_connections
        if certified == "some" or (certified == "all" and self._tokens is None):
            return True  # certificates name callers
        if self._tokens is not None:
            return name in self._tokens.value.names
        return bool(self._settings.caller_header) or is_peer_name(name)

    @property
    def _naming(self) -> str:
        """How callers have their names, where they don't come from certificates or a proxy."""
        if self._tokens is not None:
            return "no token of --tokens-file has this name"
        return (
            "without --tokens-file, --tls-client-ca and --caller-header a caller's name is its "
            "address, 192.0.2.7 or 2001:db8:1:2::/64"
        )
