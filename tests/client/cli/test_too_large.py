"""`bilstm encode` of what a call does not take: the error says which flag takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bilstm_client.cli.main import main
from tests.client.cli.files import floats, one_line
from tests.support.servers import RunningServer, settings


@pytest.fixture(scope="module")
def limited(model_folder: Path) -> Iterator[RunningServer]:
    """A server whose calls take up to 50 steps in a sequence, and 8,000 bytes."""
    running = RunningServer(
        settings(
            model=[("small", model_folder)],
            max_sequence_tokens=50,
            max_whole_tokens=50,
            max_message_bytes=8_000,
        )
    )
    yield running
    running.close()


@pytest.mark.parametrize("steps", [60, 1_000], ids=["steps", "bytes"])
def test_a_sequence_too_large_for_a_call(
    steps: int, limited: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell is told of its flag, and of no method of Python's."""
    np.savez(tmp_path / "long.npz", s0=floats(3), s1=floats(steps))
    assert main(["encode", str(tmp_path / "long.npz"), "--server", limited.target]) == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"{tmp_path}/long.npz: s1: ")
    assert "; --stream " in line
    assert "encode_stream" not in line
