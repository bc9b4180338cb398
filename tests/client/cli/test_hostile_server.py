"""What a server says, or something in its place, does not steer the terminal of who asked."""

from __future__ import annotations

import pytest

from bilstm.v1 import encoder_pb2 as pb
from bilstm_client.cli.main import main
from tests.client.calls.raw_server import Answer, answering, status

TITLE = "\x1b]0;taken\x07"  # renames the window of most terminals


def test_names_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and versions are printed without control characters, a line each."""
    model = pb.Model(name=f"a{TITLE}\r\nb", version=TITLE)
    reply = pb.ListModelsResponse(models=[model]).SerializeToString()
    with answering(lambda: Answer([reply])) as target:
        assert main(["models", "--server", target]) == 0
    printed = capsys.readouterr().out
    assert "a?]0;taken???b version ?]0;taken? (default)\n" in printed
    assert all(line.isprintable() for line in printed.splitlines())


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """So are its errors."""
    with answering(lambda: status(5, b"no such %1B]0;taken%07%0D%0Amodel")) as target:
        assert main(["models", "--server", target]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "bilstm: NOT_FOUND: no such ?]0;taken???model"
