"""`bilstm encode` on a terminal: a short table of labels, and what was written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bilstm_client import Client, Encoding, Timing
from bilstm_client.cli.main import main
from bilstm_client.cli.report import Shown, Summary
from bilstm_server.settings import SHIPPED_MODEL
from tests.client.cli.files import assert_file, floats, on_terminal
from tests.client.connections.refusing import refusing
from tests.support.servers import RunningServer, settings, write_model

UTTERANCES = Path(__file__).parents[3] / "examples" / "japanese_vowels" / "japanese_vowels.npz"
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def encode(
    server: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs `bilstm encode` as if its standard output were a terminal; returns its exit code and
    the lines of stdout and stderr."""

    def encode(*arguments: object, target: str = server.target) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        code = main(["encode", *map(str, arguments), "--server", target])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return encode


def label_and_score(client: Client, x: object) -> tuple[str, str]:
    logits = client.encode(x, outputs=["logits"]).logits
    return client.get_model().labels[logits.argmax()], f"{logits.max():.3f}"


def test_shipped_model(tmp_path: Path) -> None:
    """With the model that ships, a real terminal shows who speaks in each utterance."""
    with np.load(UTTERANCES) as data:
        utterances = np.split(data["x"], np.cumsum(data["lengths"])[:-1])[:3]
    np.savez(tmp_path / "x.npz", **dict(zip("abc", utterances, strict=True)))  # type: ignore[arg-type]
    running = RunningServer(settings(model=[SHIPPED_MODEL]))
    try:
        shown = on_terminal("encode", tmp_path / "x.npz", "--server", running.target, prints=True)
        with Client(running.target) as client:
            expected = [label_and_score(client, x) for x in utterances]
    finally:
        running.close()
    lines = [line.rpartition("\r")[2] for line in shown.replace("\r\n", "\n").splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("sequence "))
    assert re.split("  +", lines[start]) == ["sequence", "steps", "label", "score"]
    assert [re.split("  +", line) for line in lines[start + 1 : start + 4]] == [
        [f"{tmp_path}/x.npz: {name}", str(len(x)), *both]
        for name, x, both in zip("abc", utterances, expected, strict=True)
    ]
    assert lines[start + 4 :] == [f"wrote {tmp_path}/x.encoded.npz"]


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["calls", "stream"])
def test_labels(stream: list[str], encode: Run, client: Client, tmp_path: Path) -> None:
    """Labels are shown whatever outputs are wanted, and only these are written."""
    sequences = {"s0": floats(3), "long name": floats(1_200)}
    np.savez(tmp_path / "x.npz", **sequences)  # type: ignore[arg-type]
    code, shown, errors = encode(*stream, tmp_path / "x.npz", "--outputs", "final")
    assert (code, errors) == (0, [])
    (short, its), (long, other) = (label_and_score(client, x) for x in sequences.values())
    width = max(len(short), len(long), len("label"))
    place = f"{tmp_path}/x.npz: "
    assert shown == [
        f"{'sequence':<{len(place) + 9}}  steps  {'label':<{width}}  score",
        f"{place}s0             3  {short:<{width}}  {its:>5}",
        f"{place}long name  1,200  {long:<{width}}  {other:>5}",
        f"wrote {tmp_path}/x.encoded.npz",
    ]
    encodings = client.encode_batch(sequences.values(), outputs=["final"])
    expected = {f"{n}.final": e.final for n, e in zip(sequences, encodings, strict=True)}
    assert_file(tmp_path / "x.encoded.npz", expected)


def test_classes_without_labels(
    encode: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes that have no labels are shown by their numbers, as a table of scores has them."""
    folder = write_model(tmp_path / "model", head={"num_classes": 4, "pooling": "mean"})
    x = floats(3)
    np.save(tmp_path / "x.npy", x)
    running = RunningServer(settings(model=[("plain", folder)]))
    capsys.readouterr()  # of the server, in this process
    try:
        code, shown, _ = encode(tmp_path / "x.npy", target=running.target)
        with Client(running.target) as client:
            logits = client.encode(x, outputs="logits").logits
    finally:
        running.close()
    assert code == 0
    assert [line.split() for line in shown] == [
        ["sequence", "steps", "label", "score"],
        [f"{tmp_path}/x.npy", "3", str(logits.argmax()), f"{logits.max():.3f}"],
        ["wrote", f"{tmp_path}/x.encoded.npz"],
    ]


def test_model_without_a_head(encode: Run, tmp_path: Path) -> None:
    """Where there are no classes there is no column of them."""
    np.save(tmp_path / "x.npy", np.array([1, 2]))
    code, shown, _ = encode(tmp_path / "x.npy", "--model", "tokens")
    assert code == 0
    assert [line.split() for line in shown] == [
        ["sequence", "steps"],
        [f"{tmp_path}/x.npy", "2"],
        ["wrote", f"{tmp_path}/x.encoded.npz"],
    ]


def test_many(encode: Run, tmp_path: Path) -> None:
    """The table and the list of files stay short, however many there are."""
    for n in range(25):
        np.savez(tmp_path / f"{n:02}.npz", a=floats(2), b=floats(3))
    code, shown, _ = encode("--stream", tmp_path)
    assert code == 0
    assert len(shown) == 1 + 20 + 1 + 20 + 1
    assert shown[21] == "and 30 more"
    written = [f"wrote {tmp_path}/{n:02}.encoded.npz" for n in range(20)]
    assert shown[22:] == [*written, "and 5 more"]


def test_skipped(encode: Run, tmp_path: Path) -> None:
    """How many files were left out is said."""
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", floats(2))
    encode("--stream", tmp_path)
    skipped = "skipped 2 files: the results are there"
    assert encode("--stream", "--skip-existing", tmp_path) == (0, [skipped], [])
    encode(tmp_path / "a.npy")
    skipped = "skipped 1 file: the results are there"
    assert encode("--skip-existing", tmp_path / "a.npy") == (0, [skipped], [])


def test_what_was_done_before_an_error(encode: Run, tmp_path: Path) -> None:
    """What a command that fails has written is said all the same."""
    np.save(tmp_path / "a.npy", floats(2))
    np.save(tmp_path / "b.npy", np.ones((2, 4)))
    code, shown, errors = encode(tmp_path / "a.npy", tmp_path / "b.npy")
    assert (code, len(shown), len(errors)) == (1, 3, 1)
    assert shown[-1] == f"wrote {tmp_path}/a.encoded.npz"
    assert not list(tmp_path.glob("b.encoded*"))


def test_errors_are_those_of_a_pipe(encode: Run, tmp_path: Path) -> None:
    """That labels are asked for changes no error, and waits for no server."""
    np.save(tmp_path / "x.npy", floats(2))
    code, shown, (line,) = encode(tmp_path / "x.npy", "--model", "none")
    assert (code, shown) == (1, [])
    assert line.startswith("bilstm: NOT_FOUND: ")
    nowhere = "127.0.0.1:1"
    arguments = (tmp_path / "x.npy", "--timeout-seconds", 0.3)
    code, shown, errors = encode("--stream", *arguments, target=nowhere)
    assert (code, shown) == (1, [])
    assert errors[0] == f"bilstm: waiting for a server at {nowhere} …"
    assert errors[1].startswith(f"bilstm: no server answers at {nowhere}: ")


def test_labels_wait_for_no_server(encode: Run, tmp_path: Path) -> None:
    """A server that does not serve yet is waited for once, by the call that encodes."""
    np.save(tmp_path / "x.npy", floats(2))
    with refusing() as (refuser, port):
        arguments = (tmp_path / "x.npy", "--timeout-seconds", 0.5)
        code, shown, errors = encode(*arguments, target=f"127.0.0.1:{port}")
    assert (code, shown) == (1, [])
    assert errors == [f"bilstm: 127.0.0.1:{port}: no"]
    assert refuser.methods[0] == "Check"
    assert set(refuser.methods[1:]) == {"Encode"}


def test_names_that_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files, arrays and labels can't write to the terminal on their own."""
    summary = Summary(Shown("logits", ["\x1b[2Jred", "blue"]))
    for place, score in (("x.npz: \x1b[1A", 0), ("y.npz: nan", np.nan)):
        timing = Timing(0, 0, 1, 3)
        summary.encoded(place, 3, Encoding(timing, logits=np.array([1, score], np.float32)))
    summary.written(Path("\x07.npz"))
    summary.print()
    assert [re.split("  +", line) for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["x.npz: ?[1A", "3", "?[2Jred", "1.000"],
        ["y.npz: nan", "3", "-", "nan"],
        ["wrote ?.npz"],
    ]
