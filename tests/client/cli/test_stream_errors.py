"""`bilstm encode --stream`: what can't be read, encoded or written, with a real server."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilstm_client import Client
from bilstm_client.cli.main import main
from tests.client.cli.files import BROKEN, assert_file, floats, names
from tests.support.servers import RunningServer

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def encode(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `bilstm encode --stream`; returns its exit code and the lines of stdout and stderr."""

    def encode(*arguments: object, target: str = server.target) -> tuple[int, list[str], list[str]]:
        code = main(["encode", "--stream", *map(str, arguments), "--server", target])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return encode


@pytest.mark.parametrize("case", sorted(set(BROKEN) - {"half the numbers"}))
def test_broken_file(case: str, encode: Run, tmp_path: Path) -> None:
    """A bad file, or array of a file, is told in the words that it has without --stream; all
    others are encoded, and the exit code is 1."""
    name, content, wrong = BROKEN[case]
    for good in ("a.npy", "z.npy"):
        np.save(tmp_path / good, floats(3))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, written, errors = encode(tmp_path / "a.npy", tmp_path / name, tmp_path / "z.npy")
    assert code == 1
    assert [f"{tmp_path}/{good}.states.npy" for good in "az"] == [
        line for line in written if line.endswith(".states.npy")
    ]
    assert len(errors) == 2
    expected = re.escape(f"bilstm: {tmp_path / name}: ") + wrong
    assert re.fullmatch(expected, errors[0]), errors[0]
    assert errors[1] == "bilstm: 1 file or array could not be encoded"


def test_half_a_file(encode: Run, tmp_path: Path) -> None:
    """A file that ends before its numbers do can't be mapped."""
    (tmp_path / "x.npy").write_bytes(BROKEN["half the numbers"][1] or b"")
    code, written, errors = encode(tmp_path / "x.npy")
    assert (code, written) == (1, [])
    assert errors[0].startswith(f"bilstm: {tmp_path / 'x.npy'}: can't be read: ")


def test_bad_arrays_of_an_archive(encode: Run, client: Client, tmp_path: Path) -> None:
    """Of a file with bad arrays the good ones are written."""
    arrays = {"a": floats(2), "wide": np.ones((2, 4)), "b": floats(3), "text": np.array(["x"])}
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    code, _, errors = encode(tmp_path / "x.npz")
    assert code == 1
    assert errors == [
        f"bilstm: {tmp_path}/x.npz: wide: must be [T, 5] (input_size), got [2, 4]",
        f"bilstm: {tmp_path}/x.npz: text: must be an array of numbers, got <U1",
        "bilstm: 2 files or arrays could not be encoded",
    ]
    expected = {f"{name}.states": client.encode(arrays[name]).states for name in "ab"}
    assert_file(tmp_path / "x.encoded.npz", expected)


def refusal(result: tuple[int, list[str], list[str]]) -> str:
    code, written, errors = result
    assert (code, written, len(errors)) == (1, [], 1)
    return errors[0]


def test_results_among_files(encode: Run, tmp_path: Path) -> None:
    """Results that a pattern names beside their files are left out, which is said."""
    np.save(tmp_path / "x.npy", floats(2))
    np.save(tmp_path / "x.states.npy", floats(2))
    code, written, errors = encode(tmp_path / "x.npy", tmp_path / "x.states.npy")
    assert (code, written) == (0, [f"{tmp_path}/x.states.npy"])
    assert errors == [f"bilstm: {tmp_path}/x.states.npy: holds results, and is left out"]


def test_refused_at_once(encode: Run, tmp_path: Path) -> None:
    """Only results, an empty folder: nothing is encoded."""
    np.save(tmp_path / "x.npy", floats(2))
    np.save(tmp_path / "x.states.npy", floats(2))
    (tmp_path / "empty").mkdir()
    assert refusal(encode(tmp_path / "x.states.npy")) == (
        f"bilstm: {tmp_path}/x.states.npy: holds results, not sequences"
    )
    assert refusal(encode(tmp_path / "x.npy", tmp_path / "empty")) == (
        f"bilstm: {tmp_path}/empty: holds no .npy or .npz files of sequences"
    )


def test_two_files_of_one_name(encode: Run, tmp_path: Path) -> None:
    """Two files are refused where both would be written to one, and nowhere else."""
    np.save(tmp_path / "x.npy", floats(2))
    np.savez(tmp_path / "x.npz", s=floats(2))
    written = [f"{tmp_path}/x.states.npy", f"{tmp_path}/x.encoded.npz"]
    assert encode(tmp_path) == (0, written, [])
    both = f"bilstm: {tmp_path}/x.npy and {tmp_path}/x.npz would both be written to"
    for outputs in ("states,final", "final"):
        line = refusal(encode(tmp_path, "--outputs", outputs))
        assert line == f"{both} {tmp_path}/x.encoded.npz; encode them apart"
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npz").read_bytes())  # what it is, not its name
    assert refusal(encode(tmp_path)) == f"{both} {tmp_path}/x.encoded.npz; encode them apart"
    assert "would both be written to" in refusal(encode(tmp_path / "x.npz", tmp_path / "x.npz"))


def test_any_two_of_several_files_of_one_name(encode: Run, tmp_path: Path) -> None:
    """Two are found where a third one, which is written elsewhere, came before."""
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "a" / "x.npy", floats(2))
    np.savez(tmp_path / "b" / "x.npz", s=floats(2))
    np.savez(tmp_path / "c" / "x.npz", s=floats(2))
    files = [tmp_path / "a" / "x.npy", tmp_path / "b" / "x.npz", tmp_path / "c" / "x.npz"]
    assert refusal(encode(*files, "--out-dir", tmp_path / "out")) == (
        f"bilstm: {files[1]} and {files[2]} would both be written to "
        f"{tmp_path}/out/x.encoded.npz; encode them apart"
    )


def test_unreadable_parts_of_a_folder(
    encode: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be looked into is told of, and the rest is encoded."""
    for folder in ("closed", "open"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", floats(2))
    (tmp_path / "gone.npy").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.npy")
    scan = os.scandir

    def scandir(path: Any) -> Any:  # as for who may not, which root always may
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    code, written, errors = encode(tmp_path)
    assert (code, written) == (1, [f"{tmp_path}/open/x.states.npy"])
    assert errors == [
        f"bilstm: {tmp_path}/closed: Permission denied",
        f"bilstm: {tmp_path}/gone.npy: No such file or directory",
        f"bilstm: {tmp_path}/pipe.npy: not a file",
        "bilstm: 3 files or arrays could not be encoded",
    ]


def test_results_that_can_not_be_written(encode: Run, tmp_path: Path) -> None:
    """Each is told of once, by its own name, and the rest is written."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    for name in ("a", "b/x", "c"):
        np.save(tmp_path / "in" / f"{name}.npy", floats(2))
    np.savez(tmp_path / "in" / "b" / "y.npz", s=floats(2), t=floats(3))
    out = tmp_path / "out"
    out.mkdir()
    (out / "b").write_text("no folder")
    code, written, errors = encode(tmp_path / "in", "--out-dir", out)
    assert (code, written) == (1, [f"{out}/a.states.npy", f"{out}/c.states.npy"])
    assert errors == [
        f"bilstm: {out}/b/x.states.npy: can't be written: File exists",
        f"bilstm: {out}/b/y.encoded.npz: can't be written: File exists",
        "bilstm: 2 files or arrays could not be encoded",
    ]


def test_result_on_a_full_disk(encode: Run, tmp_path: Path) -> None:
    """So is what can't be written to its end; no half of it stays."""
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", s=floats(2))
    (tmp_path / f".a.encoded.npz.{os.getpid()}.tmp").symlink_to("/dev/full")
    code, written, errors = encode(tmp_path)
    assert (code, written) == (1, [f"{tmp_path}/b.encoded.npz"])
    full = f"bilstm: {tmp_path}/a.encoded.npz: can't be written: No space left on device"
    assert errors == [full, "bilstm: 1 file or array could not be encoded"]
    assert names(tmp_path) == ["a.npz", "b.encoded.npz", "b.npz"]


def test_what_is_no_files_fault(encode: Run, tmp_path: Path) -> None:
    """What ends the stream is told without a file."""
    np.save(tmp_path / "x.npy", np.array([1, 2]))
    line = refusal(encode(tmp_path / "x.npy", "--model", "tokens", "--outputs", "logits"))
    assert line == "bilstm: INVALID_ARGUMENT: outputs[0]: the model has no head, so no logits"
    code, written, errors = encode(
        tmp_path / "x.npy", "--timeout-seconds", 0.3, target="127.0.0.1:1"
    )
    assert (code, written) == (1, [])
    assert errors[0] == "bilstm: waiting for a server at 127.0.0.1:1 …"
    assert errors[1].startswith("bilstm: no server answers at 127.0.0.1:1: ")
    assert len(errors) == 2


def test_bad_number_in_flight(encode: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no number is told in the user's words."""
    with pytest.raises(SystemExit):
        encode("x.npy", "--in-flight", "x")
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "bilstm encode: error: argument --in-flight: must be a number, got 'x'"
