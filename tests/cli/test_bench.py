"""`bilstm-server bench`: what it measures of a model, and what it makes of that."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bilstm_server.cli.bench_model import _summary
from bilstm_server.cli.main import main
from bilstm_server.engine.measuring import Measured, MeasuredBatch
from bilstm_server.engine.recommending import Line, recommend
from bilstm_server.settings import Settings


def measured(fixed: float, per_token: float, long_step: float) -> Measured:
    """Batches whose cost is exactly a line."""
    batches = [MeasuredBatch(n, 64 * n, fixed + per_token * 64 * n) for n in (1, 2, 4, 64, 256)]
    return Measured(batches, long_step)


def test_line() -> None:
    """The line gives back what a batch costs by itself, and for each token."""
    line = Line.fit(measured(1e-3, 2e-6, 1e-5))
    np.testing.assert_allclose((line.fixed, line.per_token), (1e-3, 2e-6), rtol=1e-6)


def test_recommended() -> None:
    """A batch takes no longer than it may, the queue no longer than a request may wait, and what is
    computed whole a quarter of a batch's time."""
    recommended = recommend(measured(0.0, 1e-5, 1e-5), batch_seconds=0.1, queue_seconds=2.0)
    assert recommended.in_time
    assert recommended.settings == {
        "max_batch_tokens": 9_984,  # 10,000, rounded down to a multiple of 64
        "max_queue_tokens": 200_000,
        "max_whole_tokens": 2_496,  # 2,500
    }


def test_recommended_batch_is_large_enough() -> None:
    """Where a batch costs much by itself it is as large as a good rate needs, however long it
    takes; and never larger than what was measured."""
    costly = recommend(measured(0.05, 1e-6, 1e-6), 0.001, 2.0)
    assert (costly.max_batch_tokens, costly.in_time) == (15_360, False)  # 95 % of the best rate
    quick = recommend(measured(0.0, 1e-9, 1e-9), 0.1, 2.0)
    assert (quick.max_batch_tokens, quick.in_time) == (16_384, True)


def test_recommended_batch_was_not_seen_to_take_too_long() -> None:
    """A batch is smaller than one that was seen to take longer than it may, whatever the line
    says."""
    seconds = {n: 1e-3 + 1e-5 * n for n in (64, 256, 1024, 4096, 16_384)} | {4096: 0.13}
    rows = [MeasuredBatch(tokens // 64, tokens, took) for tokens, took in seconds.items()]
    assert Line.fit(Measured(rows, 1e-5)).seconds(4096) < 0.1
    recommended = recommend(Measured(rows, 1e-5), batch_seconds=0.1, queue_seconds=2.0)
    assert recommended.max_batch_tokens < 4096
    assert recommended.in_time


def test_what_bench_says_of_a_noisy_or_slow_machine() -> None:
    """Where runs of one batch differ much, or no batch in time is a good one, it is said."""
    words = _summary(measured(0.0, 1e-5, 1e-5), 0.1, Settings())
    assert "noisy" not in words
    assert "too slow" not in words
    noisy = Measured([MeasuredBatch(1, 64, 0.001, 1.0), MeasuredBatch(2, 128, 0.002, 1.5)], 1e-5)
    assert "took 1.5 times the shortest or longer" in _summary(noisy, 0.1, Settings())
    assert "more than --batch-seconds" in _summary(measured(0.05, 1e-6, 1e-6), 0.001, Settings())


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


def test_bench_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint is no model yet: `import` is named."""
    checkpoint = tmp_path / "classifier.pt"
    checkpoint.touch()
    assert main(["bench", "--model", str(checkpoint)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bilstm-server: {checkpoint}: is a file")
    assert "run bilstm-server import first" in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BILSTM_PORT", "foo", "--port (BILSTM_PORT): "),
        ("BILSTM_DTYP", "bfloat16", "'BILSTM_DTYP' in the environment is no setting"),
        ("BILSTM_CONFIG", "/none.toml", "--config /none.toml: No such file"),
    ],
)
def test_bad_variable(
    name: str,
    value: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Variables are checked as those of `serve` are, and refused in one line."""
    monkeypatch.setenv(name, value)
    assert main(["bench", "--model", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_settings_of_bench(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A flag wins over a variable, and that over the file of --config."""
    used: list[int] = []
    monkeypatch.setattr("bilstm_server.cli.bench_model.use_threads", used.append)
    config = tmp_path / "server.toml"
    config.write_text("dtype = 'bfloat16'\nthreads = 3\nkernel = 'cpu'\nmax_batch_tokens = 64")
    monkeypatch.setenv("BILSTM_KERNEL", "reference")
    monkeypatch.setenv("BILSTM_THREADS", "2")
    flags = ["--config", str(config), "--threads", "1", "--seconds", "0.01"]
    model = ["--model", str(model_folder), "--steps", "64"]
    monkeypatch.setenv("BILSTM_MAX_SEQUENCE_TOKENS", "64")
    assert main(["bench", *model, *flags]) == 0
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert "reference kernel on cpu, bfloat16, 1 threads" in first
    assert used == [1]
    assert [row.split()[:2] for row in rows if row.strip()[:1].isdigit()] == [["1", "64"]]


def test_help_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    """Help says the defaults that there are."""
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    written = capsys.readouterr().out
    assert "None" not in written
    assert "==SUPPRESS==" not in written
    assert "(default: float32)" in written
