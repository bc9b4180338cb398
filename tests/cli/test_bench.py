"""`bilstm-server bench`: what it measures of a model, and what it makes of that."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bilstm_server.cli.main import main
from bilstm_server.engine.measuring import Measured, MeasuredBatch
from bilstm_server.settings import Settings


def measured(fixed: float, per_token: float, long_step: float) -> Measured:
    """Batches whose cost is exactly a line."""
    batches = [MeasuredBatch(n, 64 * n, fixed + per_token * 64 * n) for n in (1, 2, 4, 64, 256)]
    return Measured(batches, long_step)


def test_line() -> None:
    """The line gives back what a batch costs by itself, and for each token."""
    np.testing.assert_allclose(measured(1e-3, 2e-6, 1e-5).line, (1e-3, 2e-6), rtol=1e-6)


def test_recommended() -> None:
    """A batch takes no longer than it may, the queue no longer than a request may wait, and what is
    computed whole a quarter of a batch's time."""
    recommended = measured(0.0, 1e-5, 1e-5).recommended(batch_seconds=0.1, queue_seconds=2.0)
    assert recommended == {
        "max_batch_tokens": 9_984,  # 10,000, rounded down to a multiple of 64
        "max_queue_tokens": 199_936,  # 200,000
        "max_whole_tokens": 2_496,  # 2,500
    }


def test_recommended_batch_is_large_enough() -> None:
    """Where a batch costs much by itself it is as large as a good rate needs, however long it
    takes; and never larger than what was measured."""
    assert measured(0.05, 1e-6, 1e-6).recommended(0.001, 2.0)["max_batch_tokens"] == 16_384
    assert measured(0.0, 1e-9, 1e-9).recommended(0.1, 2.0)["max_batch_tokens"] == 16_384


@pytest.mark.parametrize("name", ["model_folder", "token_model_folder"])
def test_bench(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints each batch, the lone sequence, the line, and flags that `serve` takes."""
    folder: Path = request.getfixturevalue(name)
    assert main(["bench", "--model", str(folder), "--steps", "512", "--seconds", "0.1"]) == 0
    written = capsys.readouterr().out
    sizes = [int(line.split()[0]) for line in written.splitlines()[2:8]]
    assert sizes == [1, 2, 4, 8, 16, 32]
    for words in ("a lone sequence: ", "at the most: ", "a batch costs: ", "recommended: "):
        assert words in written
    flags = dict(re.findall(r"--([a-z-]+) (\d+)", written))
    values = {name.replace("-", "_"): value for name, value in flags.items()}
    assert {"max_batch_tokens", "max_queue_tokens", "max_whole_tokens"} <= set(values)
    Settings.model_validate(values)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "must be a number, at least 1, got '0'"),
        (["--seconds", "nan"], "must be seconds, up to 3600, got 'nan'"),
        (["--batch-seconds", "soon"], "must be seconds, up to 3600, got 'soon'"),
    ],
)
def test_bad_flag(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no number, or none that can be, is refused with the flag named."""
    with pytest.raises(SystemExit):
        main(["bench", "--model", "x", *flags])
    written = capsys.readouterr().err
    assert words in written
    assert flags[0] in written


def test_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a model is named, in one line."""
    assert main(["bench", "--model", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
