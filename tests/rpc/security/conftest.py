"""An authority that vouches for servers and callers, and files of tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bilstm_server.settings import Settings
from tests.security.authority import Authority
from tests.support.servers import settings

Configure = Callable[..., Settings]


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
