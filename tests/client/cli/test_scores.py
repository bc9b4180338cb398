"""`bilstm encode --out`: scores as a table, in every format, with a real server."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bilstm_client import Client
from bilstm_client.cli import tables
from bilstm_client.cli.main import main
from bilstm_client.cli.scores import best_class, class_names
from bilstm_client.types import Array
from tests.client.cli.files import floats
from tests.support.servers import RunningServer

Run = Callable[..., tuple[int, list[str], list[str]]]
SUFFIXES = (".csv", ".jsonl", ".parquet")
LABELS = ("red", "green", "blue")


@pytest.fixture
def encode(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `bilstm encode`; returns its exit code and the lines of stdout and stderr."""

    def encode(*arguments: object) -> tuple[int, list[str], list[str]]:
        code = main(["encode", *map(str, arguments), "--server", server.target])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return encode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an .npy file and an .npz file."""
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", floats(4))
    np.savez(folder / "b.npz", s0=floats(3), s1=floats(7))
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    """A table's rows, as any program would read them; an empty field of CSV is None."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    text = path.read_text("utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    numbers = {"steps": int, "score": float} | {f"logits.{label}": float for label in LABELS}
    return [
        {k: numbers.get(k, str)(v) if v else None for k, v in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]


def expected_row(client: Client, file: Path, array: str | None, x: Array) -> dict[str, Any]:
    logits = client.encode(x, outputs=["logits"]).logits
    best = int(logits.argmax())
    row = {"file": str(file), "array": array, "steps": len(x), "label": LABELS[best]}
    scores = zip(LABELS, logits, strict=True)
    return row | {"score": logits[best]} | {f"logits.{name}": value for name, value in scores}


def assert_rows(path: Path, expected: list[dict[str, Any]]) -> None:
    """The table has these rows in this order; a batch may move the last bits of a score."""
    rows = read(path)
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for name, value in other.items():
            if isinstance(value, np.floating):
                assert row[name] == pytest.approx(float(value), rel=0, abs=1e-6)
            else:
                assert row[name] == value


def temporary(path: Path) -> Path:
    """Where this process writes a result until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["calls", "stream"])
def test_table(
    suffix: str, stream: list[str], encode: Run, client: Client, folder: Path, tmp_path: Path
) -> None:
    """A row for each sequence: where it is, its steps, the label of the highest score, the score,
    and the scores of all classes. Nothing else is written."""
    table = tmp_path / "new" / f"scores{suffix}"
    given = [folder / "b.npz", folder / "a.npy"]
    assert encode(*stream, "--out", table, *given) == (0, [str(table)], [])
    assert_rows(
        table,
        [
            expected_row(client, given[0], "s0", floats(3)),
            expected_row(client, given[0], "s1", floats(7)),
            expected_row(client, given[1], None, floats(4)),
        ],
    )
    assert files(tmp_path) == sorted(["a.npy", "b.npz", "in", "new", table.name])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_rows_than_a_group(suffix: str, tmp_path: Path) -> None:
    """However many there are, every row is read back."""
    path = tmp_path / f"x{suffix}"
    table = tables.open_table(path, suffix, {"n": int, "x": float, "s": str})
    for n in range(10_000):
        table.add({"n": n, "x": n / 4, "s": None if n % 2 else f"ü{n}"})
    table.close()
    rows = list(tables.read_table(path))
    assert [int(row["n"]) for row in rows] == list(range(10_000))
    assert [float(row["x"]) for row in rows[:3]] == [0, 0.25, 0.5]
    assert [row["s"] or None for row in rows[:3]] == ["ü0", None, "ü2"]


@pytest.mark.parametrize(("suffix", "score"), [(".csv", "nan"), (".jsonl", None)])
def test_nan(suffix: str, score: str | None, encode: Run, tmp_path: Path) -> None:
    """A sequence with a NaN has no label, and its scores are NaN; JSON has none, so null."""
    np.save(tmp_path / "x.npy", np.full((3, 5), np.nan, np.float32))
    table = tmp_path / f"scores{suffix}"
    assert encode(tmp_path / "x.npy", "--out", table)[0] == 0
    (row,) = tables.read_table(table)
    assert not row["label"]
    assert {row[name] for name in ("score", *(f"logits.{label}" for label in LABELS))} == {score}


def test_numbers_for_labels() -> None:
    """Where labels don't tell the classes apart they have numbers; a NaN has no class."""
    assert class_names(LABELS, 3) == LABELS
    assert class_names((), 3) == class_names(("a", "a", "b"), 3) == ["0", "1", "2"]
    assert best_class(np.array([0.5, 0.1], np.float32), ["a", "b"]) == ("a", 0.5)
    name, score = best_class(np.array([0.5, np.nan], np.float32), ["a", "b"])
    assert name is None
    assert math.isnan(score)


def test_scores_are_read_back_as_they_were(tmp_path: Path) -> None:
    """A float32 has few digits in a table, and all of its bits."""
    assert best_class(np.array([0.1], np.float32), ["a"]) == ("a", 0.1)


def test_model_without_a_head(encode: Run, tmp_path: Path) -> None:
    """The server's words, and no table."""
    np.save(tmp_path / "x.npy", np.array([1, 2]))
    for stream in ([], ["--stream"]):
        table = tmp_path / "scores.csv"
        code, _, errors = encode(*stream, tmp_path / "x.npy", "--model", "tokens", "--out", table)
        line = "bilstm: INVALID_ARGUMENT: outputs[0]: the model has no head, so no logits"
        assert (code, errors) == (1, [line])
        assert files(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["calls", "stream"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk(suffix: str, stream: list[str], encode: Run, folder: Path) -> None:
    """A table that can't be written to its end leaves the one from before, and no half."""
    table = folder / f"scores{suffix}"
    table.write_text("before")
    temporary(table).symlink_to("/dev/full")
    code, written, errors = encode(*stream, folder / "a.npy", "--out", table)
    assert (code, written) == (1, [])
    assert errors == [f"bilstm: {table}: can't be written: No space left on device"]
    assert table.read_text() == "before"
    assert files(folder) == ["a.npy", "b.npz", table.name]


def test_no_place_for_a_table(encode: Run, folder: Path) -> None:
    """A table that can't be made is said before anything is encoded."""
    table = folder / "a.npy" / "scores.csv"
    code, _, (line,) = encode(folder / "a.npy", "--out", table)
    assert code == 1
    assert line.startswith(f"bilstm: {table}: can't be written: ")


def test_a_failure_leaves_no_table(encode: Run, folder: Path) -> None:
    """Without --stream a file at fault ends the command: there is no table of the others."""
    np.save(folder / "wide.npy", np.ones((2, 4)))
    code, _, errors = encode(folder / "a.npy", folder / "wide.npy", "--out", folder / "scores.csv")
    assert code == 1
    assert errors == [f"bilstm: {folder}/wide.npy: must be [T, 5] (input_size), got [2, 4]"]
    assert files(folder) == ["a.npy", "b.npz", "wide.npy"]


def test_failures_in_a_stream(encode: Run, client: Client, folder: Path) -> None:
    """With --stream the table has what could be encoded, and is not there without a row."""
    np.save(folder / "wide.npy", np.ones((2, 4)))
    table = folder / "scores.jsonl"
    for _ in range(2):  # what lacks a row is no result to skip
        code, written, errors = encode("--stream", folder, "--out", table, "--skip-existing")
        assert (code, written) == (1, [str(table)])
        assert errors == [
            f"bilstm: {folder}/wide.npy: must be [T, 5] (input_size), got [2, 4]",
            "bilstm: 1 file or array could not be encoded",
        ]
        assert [row["array"] for row in read(table)] == [None, "s0", "s1"]
    table.unlink()
    assert encode("--stream", folder / "wide.npy", "--out", table)[:2] == (1, [])
    assert files(folder) == ["a.npy", "b.npz", "wide.npy"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["calls", "stream"])
def test_skip_existing(suffix: str, stream: list[str], encode: Run, folder: Path) -> None:
    """A table with a row for each sequence is left as it is; a torn one, or one that lacks a
    sequence, is none."""
    table = folder / f"scores{suffix}"
    arguments = [*stream, "--out", table, "--skip-existing", folder / "a.npy"]
    assert encode(*arguments)[1] == [str(table)]
    whole = table.read_bytes()
    assert encode(*arguments) == (0, [], [])
    assert table.read_bytes() == whole
    table.write_bytes(whole[: len(whole) // 2 if suffix != ".csv" else whole.index(b"\n") + 1])
    assert encode(*arguments)[1] == [str(table)]
    assert encode(*arguments, folder / "b.npz")[1] == [str(table)]
    assert len(read(table)) == 3
    assert encode(*arguments, folder / "b.npz")[1] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", [b"\0" * 300_000, b"\xff", b'"' + b"x" * 300_000, b"\r\n\r"])
def test_skip_existing_and_a_damaged_table(
    damage: bytes, suffix: str, encode: Run, folder: Path
) -> None:
    """Whatever is in a table's place is written anew where it is no table."""
    table = folder / f"scores{suffix}"
    table.write_bytes(damage)
    arguments = ["--out", table, "--skip-existing", folder / "a.npy"]
    assert encode(*arguments) == (0, [str(table)], [])
    assert [row["steps"] and int(row["steps"]) for row in read(table)] == [4]


def test_skip_existing_and_an_unreadable_file(encode: Run, folder: Path) -> None:
    """A file that can't be read is said to be so, whatever table is there."""
    table = folder / "scores.csv"
    arguments = ["--stream", "--out", table, "--skip-existing", folder]
    assert encode(*arguments)[0] == 0
    (folder / "b.npz").write_bytes(b"")
    for _ in range(2):
        code, _, errors = encode(*arguments)
        assert code == 1
        assert errors[0] == f"bilstm: {folder}/b.npz: not an .npy or .npz file"


def test_any_name(encode: Run, tmp_path: Path) -> None:
    """A file whose name is no text has a row in every format, and is found there again."""
    path = os.fsencode(tmp_path) + b"/\xff.npy"
    with open(path, "wb") as file:
        np.save(file, floats(2))
    for suffix in SUFFIXES:
        table = tmp_path / f"scores{suffix}"
        arguments = ["--out", table, "--skip-existing", os.fsdecode(path)]
        assert encode(*arguments)[1] == [str(table)]
        assert encode(*arguments)[1] == []
        assert read(table)[0]["file"] == f"{tmp_path}/\ufffd.npy"


def test_without_pyarrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parquet needs a package, which is named, with how to install it."""

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(tables, "find_spec", find_spec)
    with pytest.raises(SystemExit) as caught:
        main(["encode", "x.npy", "--out", "scores.parquet"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "bilstm encode: error: argument --out: .parquet needs the package pyarrow: "
        "pip install pyarrow"
    )
