"""Settings of who is let in: certificates, tokens, and what is open to everybody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from ..quoting import quoted
from .types import Port

_HEADER = re.compile(r"[a-z0-9_.-]+")


class TlsSettings(BaseModel):
    """The certificates of gRPC's address."""

    tls_cert: Path | None = Field(
        default=None,
        description="The file of the server's certificate, and of those that vouch for it, in PEM. "
        "With it gRPC is served over TLS. It is read anew when it changes.",
    )
    tls_key: Path | None = Field(
        default=None,
        description="The file of the certificate's key, in PEM and not encrypted. It is read anew "
        "when it changes.",
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="The file of the authorities that vouch for callers, in PEM. With it a caller "
        "must have a certificate of theirs, on --tls-client-port alone where that is set. It is "
        "read anew when it changes.",
    )
    tls_client_port: Port | None = Field(
        default=None,
        description="A second port of gRPC, for callers with certificates, who need no token "
        "there. Those who call --port are asked for no certificate then: they need a token where "
        "--tokens-file is set, and where it is not, everybody may call. 0 takes any free one.",
    )
    insecure: bool = Field(
        default=False,
        description="Serve other machines without TLS. Say so only where something in front of the "
        "server has TLS, or where nobody else can reach the network.",
    )

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key must be given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca must be given with --tls-cert and --tls-key")
        if self.tls_client_port is not None and self.tls_client_ca is None:
            raise ValueError("--tls-client-port must be given with --tls-client-ca")
        if self.insecure and self.tls_cert is not None:  # it would wait for the day TLS is gone
            raise ValueError(
                "--insecure must not be given with --tls-cert: nothing is served in plain text then"
            )
        return self

    @property
    def certified_connections(self) -> Literal["none", "some", "all"]:
        """Which connections have a certificate of their caller's; some are those to
        --tls-client-port."""
        if self.tls_client_ca is None:
            return "none"
        return "all" if self.tls_client_port is None else "some"


class AuthSettings(BaseModel):
    """Who may call, and what may be asked by everybody."""

    tokens_file: Path | None = Field(
        default=None,
        description="The file of the tokens that callers may have, NAME: TOKEN on each line. With "
        "it every call must have one, but for those over --tls-client-port. It is read anew when "
        "it changes.",
    )
    caller_header: str = Field(
        default="",
        description="The metadata in which a proxy says whose call it is, x-forwarded-for say; its "
        "last part counts. Empty trusts none. Whoever reaches the server can write it, so say so "
        "only where all calls come through the proxy.",
    )
    health: Literal["open", "callers"] = Field(
        default="open",
        description="Who may ask for the health over gRPC. open is everybody who reaches the "
        "server; callers is those who may call.",
    )
    reflection: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether reflection is served. auto serves it on loopback and unix sockets "
        "only. Where callers need tokens, reflection does too.",
    )

    @field_validator("caller_header")
    @classmethod
    def _is_a_header(cls, value: str) -> str:
        name = value.lower()
        if name and (not _HEADER.fullmatch(name) or name.endswith("-bin")):
            raise ValueError(
                f"must be of letters, digits and _ . - and not end in -bin, got {quoted(value)}"
            )
        if name == "authorization":
            raise ValueError("must not be authorization, which has the token")
        return name
