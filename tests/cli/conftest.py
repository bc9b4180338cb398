"""Settings as the command line makes them, without those of whoever runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from bilstm_server.cli import main as server_cli
from bilstm_server.cli import serve as serve_command
from bilstm_server.settings import Settings
from tests.cli.loading import Load


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BILSTM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # `serve` sends the log to this test's standard error


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Runs `bilstm-server serve` up to where it would serve; returns the settings it has."""
    loaded: list[Settings] = []

    async def serve(settings: Settings) -> bool:
        loaded.append(settings)
        return True

    monkeypatch.setattr(serve_command, "serve", serve)

    def load(*flags: str, **environment: str) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert server_cli.main(["serve", *flags]) == 0
        return loaded.pop()

    return load
