"""`bilstm encode` of files, without a stream, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bilstm_client import Client
from bilstm_client.cli.main import main
from bilstm_client.types import Array
from tests.client.cli.files import (
    ALL_OUTPUTS,
    BROKEN,
    GOOD,
    assert_file,
    floats,
    on_terminal,
    one_line,
)
from tests.support.commands import COMMANDS, run
from tests.support.servers import RunningServer

Encode = Callable[..., list[str]]


@pytest.fixture
def encode(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Encode:
    """Runs `bilstm encode` on the shared server; returns the lines it printed."""

    def encode(*arguments: object) -> list[str]:
        given = ["encode", *map(str, arguments), "--server", server.target]
        assert main(given) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    return encode


def test_encode_npy(encode: Encode, client: Client, tmp_path: Path) -> None:
    """For FILE.npy it writes FILE.encoded.npz beside it, and says so."""
    x = floats(4)
    np.save(tmp_path / "x.npy", x)
    assert encode(tmp_path / "x.npy") == [str(tmp_path / "x.encoded.npz")]
    assert_file(tmp_path / "x.encoded.npz", {"states": client.encode(x).states})


def test_encode_npz(encode: Encode, client: Client, tmp_path: Path) -> None:
    """For FILE.npz it writes each array's outputs as NAME.OUTPUT; more arrays than one call
    takes are no matter."""
    sequences = {f"s{n}": floats(1 + n % 5, n) for n in range(70)}
    np.savez(tmp_path / "many.npz", **sequences)  # type: ignore[arg-type]
    encode("--outputs", "final,logits", tmp_path / "many.npz")
    encodings = client.encode_batch(sequences.values(), outputs=["final", "logits"])
    named = zip(sequences, encodings, strict=True)
    expected: dict[str, Array] = {}
    for name, encoding in named:
        expected |= {f"{name}.final": encoding.final, f"{name}.logits": encoding.logits}
    assert_file(tmp_path / "many.encoded.npz", expected)


def test_encode_all_outputs(encode: Encode, client: Client, tmp_path: Path) -> None:
    """Every output has its name in the file, the state as hidden and cell."""
    x = floats(6)
    np.save(tmp_path / "x.npy", x)
    encode(tmp_path / "x.npy", "--outputs", ",".join(ALL_OUTPUTS))
    encoding = client.encode(x, outputs=ALL_OUTPUTS)
    expected: dict[str, Array] = {o: getattr(encoding, o) for o in ALL_OUTPUTS[:-1]}
    expected |= {"state.hidden": encoding.state.hidden, "state.cell": encoding.state.cell}
    assert_file(tmp_path / "x.encoded.npz", expected)


@pytest.mark.parametrize("dtype", ["i8", "i4", "u1"])
def test_encode_token_ids(dtype: str, encode: Encode, client: Client, tmp_path: Path) -> None:
    """Token ids go to the model that --model names."""
    ids = np.array([3, 0, 19, 7])
    np.save(tmp_path / "ids.npy", ids.astype(dtype))
    np.savez(tmp_path / "more.npz", a=ids.astype(dtype))
    encode(tmp_path / "ids.npy", tmp_path / "more.npz", "--model", "tokens", "--model-version", 1)
    states = client.encode(ids, model="tokens").states
    assert_file(tmp_path / "ids.encoded.npz", {"states": states})
    assert_file(tmp_path / "more.encoded.npz", {"a.states": states})


def test_encode_out_dir(encode: Encode, client: Client, tmp_path: Path) -> None:
    """--out-dir, made if need be, takes the results of all files."""
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / f"{name}.npy" for name in "ab"]
    for n, path in enumerate(files):
        np.save(path, floats(3, n))
    out = tmp_path / "new" / "out"
    assert encode(*files, "--out-dir", out) == [f"{out}/a.encoded.npz", f"{out}/b.encoded.npz"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.npy", "b.npy"]
    assert_file(out / "b.encoded.npz", {"states": client.encode(floats(3, 1)).states})


def test_encode_names_with_dots(encode: Encode, tmp_path: Path) -> None:
    """A dot in a file's name is a part of it: two files never write to one."""
    for name in ("take.1", "take.2"):
        np.save(tmp_path / f"{name}.npy", floats(2))
    assert encode(tmp_path / "take.1.npy", tmp_path / "take.2.npy") == [
        str(tmp_path / "take.1.encoded.npz"),
        str(tmp_path / "take.2.encoded.npz"),
    ]


@pytest.mark.parametrize("names", [("a/x.npy", "b/x.npy"), ("x.npy", "x.npz")])
def test_encode_one_name_twice(
    names: tuple[str, str],
    server: RunningServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two files whose results would have one name are refused, and named."""
    files = [tmp_path / name for name in names]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            (np.save if path.suffix == ".npy" else np.savez)(file, floats(2))
    line = refusal(capsys, server, *files, "--out-dir", tmp_path)
    assert line == (
        f"{files[0]} and {files[1]} would both be written to {tmp_path / 'x.encoded.npz'}; "
        "encode them apart"
    )


def test_encode_results(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results are no sequences: where a pattern names them too they are left out, which is said;
    where nothing else is named nothing is encoded."""
    np.save(tmp_path / "x.npy", floats(2))
    encoded, states = tmp_path / "x.encoded.npz", tmp_path / "x.states.npy"
    np.savez(encoded, states=floats(2))
    np.save(states, floats(2))
    assert refusal(capsys, server, encoded, states) == f"{encoded}: holds results, not sequences"
    pattern = sorted(map(str, tmp_path.iterdir()))
    assert main(["encode", *pattern, "--server", server.target]) == 0
    assert tuple(capsys.readouterr()) == (
        f"{encoded}\n",
        f"bilstm: {encoded}: holds results, and is left out\n"
        f"bilstm: {states}: holds results, and is left out\n",
    )


def refusal(capsys: pytest.CaptureFixture[str], server: RunningServer, *arguments: object) -> str:
    """Runs `bilstm encode`, which must fail; returns the one line it says."""
    given = ["encode", *map(str, arguments), "--server", server.target]
    assert main(given) == 1
    return one_line(capsys.readouterr().err)


@pytest.mark.parametrize("case", BROKEN)
def test_encode_broken_file(
    case: str, server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with a file is one line that names it and its array, without numpy's advice
    to trust it; and exit code 1."""
    name, content, wrong = BROKEN[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    line = refusal(capsys, server, tmp_path / name)
    assert re.fullmatch(f"{re.escape(str(tmp_path / name))}: {wrong}", line), line
    assert "pickle" not in line
    assert not list(tmp_path.glob("*.encoded.npz"))


def test_encode_names_the_array_of_a_later_batch(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The array at fault is named also where others were encoded before it."""
    arrays = {f"s{n}": floats(1) for n in range(100)} | {"s99": np.ones((3, 4))}
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    line = refusal(capsys, server, tmp_path / "x.npz")
    assert line == f"{tmp_path / 'x.npz'}: s99: must be [T, 5] (input_size), got [3, 4]"


def test_encode_looks_first(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that can't be opened is told before any other is encoded, and the numbers of a file
    are not read before their turn."""
    (tmp_path / "a.npy").write_bytes(GOOD)
    line = refusal(capsys, server, tmp_path / "a.npy", tmp_path / "b.npy")
    assert line.startswith(f"{tmp_path / 'b.npy'}: ")
    assert not (tmp_path / "a.encoded.npz").exists()
    (tmp_path / "b.npy").write_bytes(GOOD[:-8])  # its header is whole
    line = refusal(capsys, server, tmp_path / "a.npy", tmp_path / "b.npy")
    assert line.startswith(f"{tmp_path / 'b.npy'}: ")
    assert (tmp_path / "a.encoded.npz").exists()


def test_encode_no_head(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not a file's fault is told without one."""
    np.save(tmp_path / "x.npy", np.array([1, 2]))
    line = refusal(capsys, server, tmp_path / "x.npy", "--model", "tokens", "--outputs", "logits")
    assert line == "INVALID_ARGUMENT: outputs[0]: the model has no head, so no logits"


def test_encode_writes_whole_files(
    encode: Encode,
    server: RunningServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the disk fills up, the results of a run before stay, and nothing half written."""
    np.save(tmp_path / "x.npy", floats(2))
    encode(tmp_path / "x.npy")
    before = (tmp_path / "x.encoded.npz").read_bytes()

    (tmp_path / f".x.encoded.npz.{os.getpid()}.tmp").symlink_to("/dev/full")
    line = refusal(capsys, server, tmp_path / "x.npy")
    target = tmp_path / "x.encoded.npz"
    assert line == f"{target}: can't be written: No space left on device"
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.encoded.npz", "x.npy"]


def test_encode_unwritable(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results that can't be written are one line, and exit code 1."""
    np.save(tmp_path / "x.npy", floats(2))
    line = refusal(capsys, server, tmp_path / "x.npy", "--out-dir", tmp_path / "x.npy")
    assert line.startswith(f"{tmp_path / 'x.npy' / 'x.encoded.npz'}: can't be written: ")


def test_progress_bar(server: RunningServer, tmp_path: Path) -> None:
    """On a terminal a progress bar counts the steps."""
    np.savez(tmp_path / "x.npz", **{f"s{n}": floats(2, n) for n in range(65)})  # type: ignore[arg-type]
    text = on_terminal("encode", tmp_path / "x.npz", "--server", server.target)
    assert "130/130" in text
    assert "steps" in text


def test_no_progress_bar_in_a_pipe(server: RunningServer, tmp_path: Path) -> None:
    """Where standard error is no terminal, nothing is written to it."""
    np.save(tmp_path / "x.npy", floats(2))
    done = run("bilstm", "encode", tmp_path / "x.npy", "--server", server.target)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["calls", "stream"])
def test_no_standard_output(stream: list[str], server: RunningServer, tmp_path: Path) -> None:
    """A command whose standard output is closed writes its results all the same."""
    np.savez(tmp_path / "x.npz", s=floats(2))
    given = ["encode", *stream, tmp_path / "x.npz", "--server", server.target]
    closed = 'exec 1>&- "$0" "$@"'
    done = subprocess.run(
        ["sh", "-c", closed, COMMANDS / "bilstm", *map(str, given)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x.encoded.npz").exists()


def test_folder_without_stream(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is refused in words that say what to do."""
    assert refusal(capsys, server, tmp_path) == (
        f"{tmp_path}: is a folder; with --stream, the .npy and .npz files in it and below are "
        "encoded"
    )
