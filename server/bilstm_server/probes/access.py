"""`Access`: by what the port proves itself, and who may see what it shows: TLS, and tokens."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from ..errors import UnusableFile
from ..metrics import FileMetrics
from ..security.certificates import KeyPair, parse_key_pair
from ..security.reloading import Reloading
from ..security.tokens import Tokens, parse_tokens
from ..security.watched import Watched
from ..settings import ProbeSettings

PROTECTED = ("/", "/metrics")  # the probes are open: whoever asks them has no place for a token
_SCHEME = "bearer"


class Access:
    """Who may see what the port shows; by default everybody, in plain text.

    Each connection is made with what the files hold then, and each request is held against them.
    """

    def __init__(self, settings: ProbeSettings, metrics: Callable[[str], FileMetrics]):
        """Read the files that the settings name. `metrics` are those of a setting's file. Raises
        `UnusableFile`."""
        self._pair: Watched[ServedPair] | None = None
        self._tokens: Watched[Tokens] | None = None
        cert, key = settings.metrics_tls_cert, settings.metrics_tls_key
        if cert is not None and key is not None:
            self._pair_metrics = metrics("metrics_tls_cert")
            self._pair = Watched(
                "--metrics-tls-cert, --metrics-tls-key",
                [cert, key],
                lambda *data: ServedPair(cert, key, parse_key_pair(*data)),
                self._pair_metrics,
                secrets=[key],
            )
            self._pair_changed()
        if settings.metrics_token_file is not None:
            paths, counts = [settings.metrics_token_file], metrics("metrics_token_file")
            self._tokens = Watched(
                "--metrics-token-file", paths, parse_own_tokens, counts, secrets=paths
            )

    def watch(self, reloading: Reloading) -> None:
        """Let the files be read anew."""
        if self._pair is not None:
            reloading.watch(self._pair, self._pair_changed)
        if self._tokens is not None:
            reloading.watch(self._tokens)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What the next connection is made with; None is plain text."""
        return None if self._pair is None else self._pair.value.context

    def allows(self, path: str, authorization: str) -> bool:
        """Whether a request with this header may see what is at the path."""
        if self._tokens is None or path not in PROTECTED:
            return True
        scheme, _, presented = authorization.partition(" ")
        is_known = self._tokens.value.find(presented.strip()) is not None
        return is_known and scheme.lower() == _SCHEME

    def _pair_changed(self) -> None:
        assert self._pair is not None
        self._pair_metrics.certificate_ends(self._pair.value.ends_at)


class ServedPair:
    """A certificate and its key as Python's TLS takes them."""

    def __init__(self, cert: Path, key: Path, pair: KeyPair):
        """`pair` is what the files held just now: Python reads them itself, anew, and the next look
        at them tells if they were others by then. Raises `UnusableFile`."""
        self.ends_at, self.log_values = pair.ends_at, pair.log_values
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self.context.load_cert_chain(cert, key, password="")  # or it would ask a terminal
        except (OSError, ValueError) as error:
            raise UnusableFile(f"can't be served: {error}") from error


def parse_own_tokens(data: bytes) -> Tokens:
    """Read a file of tokens without names, as Prometheus takes its own from. Raises
    `UnusableFile`, with the number of the line."""
    lines = [line.strip() for line in data.splitlines()]
    tokens = [b"metrics: " + line if line[:1] not in (b"", b"#") else b"" for line in lines]
    if not any(tokens):
        raise UnusableFile("must have a token, on a line of its own")
    return parse_tokens(b"\n".join(tokens))
