"""Settings of the port of metrics and probes: what it shows, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, model_validator


class ProbeSettings(BaseModel):
    """Whether the port of metrics and probes has TLS, and asks for a token."""

    metrics_tls_cert: Path | None = Field(
        default=None,
        description="The file of the certificate of metrics and probes, and of those that vouch "
        "for it, in PEM. With it they are served over TLS alone. It is read anew when it changes.",
    )
    metrics_tls_key: Path | None = Field(
        default=None,
        description="The file of that certificate's key, in PEM and not encrypted. It is read anew "
        "when it changes.",
    )
    metrics_token_file: Path | None = Field(
        default=None,
        description="The file of the token that whoever scrapes must have, on a line of its own; "
        "of several, one on each line. Probes need none. It is read anew when it changes.",
    )

    @model_validator(mode="after")
    def _pair_is_whole(self) -> Self:
        if (self.metrics_tls_cert is None) != (self.metrics_tls_key is None):
            raise ValueError("--metrics-tls-cert and --metrics-tls-key must be given together")
        return self

    @property
    def metrics_are_open(self) -> bool:
        """Whether everybody who reaches the port may read the metrics."""
        return self.metrics_token_file is None
