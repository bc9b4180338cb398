"""`bilstm` with models of several inputs, and of outputs of their own, by a real server."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from bilstm_client import Client, Encoding
from bilstm_client.cli.main import main
from bilstm_client.types import Array
from tests.client.cli.files import assert_file, names, on_terminal
from tests.support.graphs import KINDS, TAGS, sentence
from tests.support.servers import RunningServer

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(params=[(), ("--stream",)], ids=["calls", "stream"])
def encode(
    request: pytest.FixtureRequest, graphs: RunningServer, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs `bilstm encode` both ways; returns its exit code and the lines of stdout and stderr."""

    def encode(*arguments: object) -> tuple[int, list[str], list[str]]:
        typed = [*request.param, *map(str, arguments), "--server", graphs.target]
        code = main(["encode", *typed])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return encode


def tagged(graphs: RunningServer, *outputs: str, steps: int = 7) -> Encoding:
    with Client(graphs.target) as client:
        return client.encode(sentence(steps), outputs=outputs)


def write(path: Path, arrays: dict[str, Array]) -> None:
    np.savez(path, **cast(Any, arrays))


def test_inputs_by_name(encode: Run, graphs: RunningServer, tmp_path: Path) -> None:
    """An .npz file is one sequence of a model of several inputs, its arrays named as they are;
    other arrays are left alone. Labels are written with their names."""
    write(tmp_path / "x.npz", sentence(7) | {"gold": np.zeros(7)})
    assert encode("--outputs", "labels,kind,upos", tmp_path / "x.npz") == (
        *(0, [str(tmp_path / "x.encoded.npz")], []),
    )
    expected = tagged(graphs, "labels", "kind", "upos")
    with np.load(tmp_path / "x.encoded.npz") as written:
        assert set(written) == {"labels", "labels.names", "kind", "kind.names", "upos"}
        for name in expected:
            np.testing.assert_array_equal(written[name], expected[name])
        assert tuple(written["labels.names"]) == TAGS
        assert written["kind.names"][written["kind"]] in KINDS


def test_skip_existing(encode: Run, graphs: RunningServer, tmp_path: Path) -> None:
    """Such a file is left out once its results are there."""
    write(tmp_path / "x.npz", sentence(7))
    asked = ("--skip-existing", "--outputs", "states,labels", tmp_path / "x.npz")
    assert encode(*asked)[1]
    before = names(tmp_path)
    assert encode(*asked) == (0, [], [])
    assert names(tmp_path) == before


def test_results_of_arrays(encode: Run, tmp_path: Path) -> None:
    """Each array is a sequence where the model has one input, and the names stand once."""
    np.savez(tmp_path / "x.npz", a=sentence(3)["features"], b=sentence(4)["features"])
    encode("--model", "classifier", "--outputs", "labels", tmp_path / "x.npz")
    with np.load(tmp_path / "x.encoded.npz") as written:
        assert set(written) == {"a.labels", "b.labels", "labels.names"}
        assert written["a.labels"].shape == ()


def test_table_of_steps(encode: Run, graphs: RunningServer, tmp_path: Path) -> None:
    """A table of labels has a row for each, by name, in every format."""
    files = [tmp_path / f"{steps}.npz" for steps in (7, 2)]
    for file, steps in zip(files, (7, 2), strict=True):
        write(file, sentence(steps))
    expected = [
        (str(file), None, row, TAGS[label])
        for file, steps in zip(files, (7, 2), strict=True)
        for row, label in enumerate(tagged(graphs, "labels", steps=steps).labels.tolist())
    ]
    for suffix in (".csv", ".jsonl", ".parquet"):
        table = tmp_path / f"tags{suffix}"
        assert encode("--out", table, "--outputs", "labels", *files) == (0, [str(table)], [])
        if suffix == ".parquet":
            rows = [tuple(row.values()) for row in pq.read_table(table).to_pylist()]
        elif suffix == ".jsonl":
            rows = [tuple(json.loads(line).values()) for line in table.read_text().splitlines()]
        else:
            read = list(csv.DictReader(table.read_text().splitlines()))
            assert list(read[0]) == ["file", "array", "row", "label"]
            rows = [(r["file"], r["array"] or None, int(r["row"]), r["label"]) for r in read]
        assert rows == expected
        skipped = encode("--skip-existing", "--out", table, "--outputs", "labels", *files)
        assert skipped == (0, [], [])


def test_table_of_sequences(encode: Run, graphs: RunningServer, tmp_path: Path) -> None:
    """Labels of whole sequences have a row each; labels without names are numbers."""
    write(tmp_path / "x.npz", sentence(7))
    encode("--out", tmp_path / "kinds.csv", "--outputs", "kind", tmp_path / "x.npz")
    kind = KINDS[int(tagged(graphs, "kind")["kind"])]
    text = (tmp_path / "kinds.csv").read_text()
    assert text == f"file,array,steps,label\n{tmp_path}/x.npz,,7,{kind}\n"
    encode("--out", tmp_path / "upos.csv", "--outputs", "upos", tmp_path / "x.npz")
    lines = (tmp_path / "upos.csv").read_text().splitlines()
    numbers = [int(row["label"]) for row in csv.DictReader(lines)]
    assert numbers == tagged(graphs, "upos")["upos"].tolist()


WRONG_TABLES = {
    "logits": "takes scores of sequences, and the model has them for each step",
    "last": "takes labels, and last are none",
}


@pytest.mark.parametrize("output", WRONG_TABLES)
def test_what_goes_into_no_table(output: str, encode: Run, tmp_path: Path) -> None:
    """Neither scores of steps nor floats go into a table: that is one line, and no file."""
    write(tmp_path / "x.npz", sentence(7))
    code, out, err = encode("--out", tmp_path / "t.csv", "--outputs", output, tmp_path / "x.npz")
    assert (code, out) == (1, [])
    assert [WRONG_TABLES[output] in line for line in err] == [True]
    assert names(tmp_path) == ["x.npz"]


def test_errors_name_the_input(encode: Run, tmp_path: Path) -> None:
    """What is wrong with a file's input is said by its name."""
    write(tmp_path / "wide.npz", sentence(7) | {"features": np.ones((7, 4))})
    np.savez(tmp_path / "half.npz", tokens=sentence(7)["tokens"])
    np.savez(tmp_path / "other.npz", gold=np.ones(7))
    np.save(tmp_path / "alone.npy", np.ones(7, int))
    said = {
        "wide": "wide.npz: features: must be [T, 3] (input_size), got [7, 4]",
        "half": "half.npz: features: must be given with the other inputs",
        "other": "other.npz: holds none of the model's inputs: tokens, features",
        "alone": "alone.npy: must be empty: the model's inputs are sent by name: tokens, features",
    }
    for name, message in said.items():
        code, _, err = encode("--outputs", "labels", next(tmp_path.glob(f"{name}.np?")))
        assert code == 1
        assert f"bilstm: {tmp_path}/{message}" in err
        assert not list(tmp_path.glob("*.encoded.npz"))


def test_states_of_a_stream(graphs: RunningServer, tmp_path: Path) -> None:
    """In a stream the states of a file that is one sequence go to a file of their own."""
    write(tmp_path / "x.npz", sentence(7))
    typed = ["encode", "--stream", "--outputs", "states,last", str(tmp_path / "x.npz")]
    assert main([*typed, "--server", graphs.target]) == 0
    expected = tagged(graphs, "states", "last")
    np.testing.assert_allclose(np.load(tmp_path / "x.states.npy"), expected.states, atol=1e-6)
    assert_file(tmp_path / "x.encoded.npz", {"last": expected["last"]})


@pytest.mark.parametrize("way", [(), ("--stream",)])
def test_labels_on_a_terminal(way: tuple[str, ...], graphs: RunningServer, tmp_path: Path) -> None:
    """A person sees the first labels of each sequence by name."""
    write(tmp_path / "x.npz", sentence(12))
    shown = on_terminal("encode", *way, "--server", graphs.target, tmp_path / "x.npz", prints=True)
    labels = [TAGS[label] for label in tagged(graphs, "labels", steps=12).labels]
    assert f"x.npz     12  {' '.join(labels[:8])} …" in shown


def test_models(graphs: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The list of models names several inputs, and all outputs."""
    assert main(["models", "--server", graphs.target]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  takes    tokens [T] token ids below 20, features [T, 3] floats" in lines
    outputs = next(line for line in lines if line.startswith("  outputs"))
    assert "upos" in outputs
    assert "  takes    [T, 3] floats" in lines
