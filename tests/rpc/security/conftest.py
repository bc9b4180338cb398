"""An authority that vouches for servers and callers, settings, and whose calls have come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bilstm_server.callers import Caller, Priority
from bilstm_server.rpc.encoder.service import EncoderService
from bilstm_server.rpc.interceptors.outcomes import current_call
from bilstm_server.settings import Settings
from tests.rpc.security.callers import write_tokens
from tests.security.authority import OTHER_TOKEN, TOKEN, Authority, Files
from tests.support.servers import settings

Configure = Callable[..., Settings]
Seen = list[tuple[Caller, Priority]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def configure(model_folder: Path, token_model_folder: Path) -> Configure:
    """Settings of a server of two models, `small` and `tokens`."""
    models = [("small", model_folder), ("tokens", token_model_folder)]
    return lambda **values: settings(model=models, **values)


@pytest.fixture
def with_tls(authority: Authority, configure: Configure) -> Configure:
    """The same over TLS."""
    files = authority.issue()
    return lambda **values: configure(
        **{"tls_cert": files.certificate, "tls_key": files.key, **values}
    )


@pytest.fixture
def callers(tmp_path: Path) -> Authority:
    """Who vouches for callers."""
    return Authority(tmp_path, "callers")


@pytest.fixture
def own(callers: Authority) -> Files:
    """The certificate of a caller."""
    return callers.issue("app.example", common_name="app")


@pytest.fixture
def two_ports(with_tls: Configure, callers: Authority) -> Configure:
    """A server with a port for callers with certificates beside the other one."""
    return lambda **values: with_tls(
        **{"tls_client_ca": callers.path, "tls_client_port": 0, **values}
    )


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """`search` may use every model, `bulk` only the second one."""
    path = tmp_path / "tokens"
    return write_tokens(path, f"search: {TOKEN}", f"bulk: {OTHER_TOKEN} models=tokens")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Caller and priority of each call that came to the service."""
    calls: Seen = []
    encode = EncoderService.Encode

    async def recorded(self: EncoderService, *arguments: Any) -> bytes:
        call = current_call.get()
        calls.append((call.caller, call.priority))
        return await encode(self, *arguments)

    monkeypatch.setattr(EncoderService, "Encode", recorded)
    return calls
