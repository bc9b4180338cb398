"""`BaseClient`: how both clients are made: where their calls go, what is trusted there, and what
each call carries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from ..types import CertificateFiles, Metadata, TlsFrom, TokenFrom
from .flows import Flows
from .session import DEFAULT_TIMEOUT_SECONDS, Session
from .target import Target
from .tls import Tls
from .tokens import token_of

Channel = TypeVar("Channel")


class BaseClient(ABC, Generic[Channel]):
    """What `Client` and `AsyncClient` have in common."""

    target: str
    """Where calls go, as it was given."""

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFrom | None = None,
        client_certificate: CertificateFiles | None = None,
        server_name: str | None = None,
        token: TokenFrom | None = None,
        token_without_tls: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        metadata: Metadata | None = None,
    ) -> None:
        """Nothing is sent until the first call.

        `target`: `host` or `host:port` (50051 unless given), `[ipv6]:port`, or `unix:path`. Of
        several servers, `ipv4:address:port,address:port` or `dns:///host`, each call takes the
        next one that is ready. A proxy that the environment names is used for neither loopback
        nor several addresses.

        - `tls`: True to trust the CAs that this machine trusts; the path of a file of other CAs in
          PEM, or its bytes; False for none. None: the file that `BILSTM_CA` names, or none.
        - `client_certificate`: the paths of a certificate and its key, for a server that asks.
        - `server_name`: the name that the server's certificate must be for, if not the target's.
        - `token`: says who calls: itself; a function that returns it, called by any thread as each
          call is sent; or the `Path` of its file, read anew when it changes. None: that of
          `BILSTM_TOKEN`; "": none. Without TLS it is sent to this machine alone (`ValueError`),
          unless `token_without_tls` says that the way to the server is safe.
        - `timeout_seconds`: of a call that sets none.
        - `metadata`: headers of each call, {name: value} or pairs, in lower case; a call's own
          replace those of its names, and `authorization` among them the token.

        Raises `TypeError` or `ValueError` for what can't be so, `OSError` for an unreadable file.
        """
        self.target = target
        address = Target.of(target)
        secured = Tls.of(tls, client_certificate, server_name, address)
        is_private = secured is not None or address.is_local or token_without_tls
        own = token_of(token, address, is_private=is_private)
        self._session = Session(target, address, secured, own, timeout_seconds, metadata)
        self._flows = Flows(self._session)
        self._channel = self._opened(self._session)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"{type(self).__name__}({self.target!r}, {state})"

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._session.is_closed

    @staticmethod
    @abstractmethod
    def _opened(session: Session) -> Channel:
        """The connection, which opens with its first call."""
