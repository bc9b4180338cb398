"""Commands of `bilstm-server` that must fail in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from bilstm_server.cli import main as cli
from tests.model.storage.importing.checkpoints import Failing
from tests.support.servers import start_error


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Iterator[Failing]:
    """Runs a command that must fail; returns what the one line on standard error says."""

    def run(*arguments: object) -> str:
        assert cli.main([str(argument) for argument in arguments]) == 1
        captured = capsys.readouterr()
        if arguments[0] == "serve":
            return start_error(captured.err)
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("bilstm-server: ")
        return lines[0].removeprefix("bilstm-server: ")

    yield run
    structlog.reset_defaults()  # `serve` sends the log to this test's standard error
