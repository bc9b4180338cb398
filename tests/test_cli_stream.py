"""`bilstm encode --stream`: files and folders through one stream to a real server."""

from __future__ import annotations

import errno
import os
import pty
import re
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import RunningServer
from streaming import HANGS_AFTER_SECONDS, Break, FakeServer, serving, sums
from test_cli import ALL_OUTPUTS, BROKEN, COMMANDS, assert_file, floats

from bilstm_client import Client
from bilstm_client import cli as client_cli
from bilstm_client._streams import patience
from bilstm_client.types import Array

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def encode(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `bilstm encode --stream`; returns its exit code and the lines of stdout and stderr."""

    def encode(*arguments: object, target: str = server.target) -> tuple[int, list[str], list[str]]:
        code = client_cli.main(["encode", "--stream", *map(str, arguments), "--server", target])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return encode


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


def assert_states(path: Path, expected: Array | None) -> None:
    assert expected is not None
    np.testing.assert_allclose(np.load(path, mmap_mode="r"), expected, rtol=0, atol=1e-6)


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_npy(encode: Run, client: Client, tmp_path: Path) -> None:
    """The states of FILE.npy are FILE.states.npy, and nothing else is written."""
    np.save(tmp_path / "x.npy", floats(4).astype("f8"))
    assert encode(tmp_path / "x.npy") == (0, [str(tmp_path / "x.states.npy")], [])
    assert_states(tmp_path / "x.states.npy", client.encode(floats(4)).states)
    assert names(tmp_path) == ["x.npy", "x.states.npy"]


def test_npy_all_outputs(encode: Run, client: Client, tmp_path: Path) -> None:
    """Its other outputs are in FILE.encoded.npz."""
    np.save(tmp_path / "x.npy", floats(4))
    code, written, _ = encode(tmp_path / "x.npy", "--outputs", ",".join(ALL_OUTPUTS))
    assert (code, written) == (0, [f"{tmp_path}/x.states.npy", f"{tmp_path}/x.encoded.npz"])
    encoding = client.encode(floats(4), outputs=ALL_OUTPUTS)
    assert_states(tmp_path / "x.states.npy", encoding.states)
    expected: dict[str, Array | None] = {o: getattr(encoding, o) for o in ALL_OUTPUTS[1:-1]}
    expected |= {"state.hidden": encoding.state.hidden, "state.cell": encoding.state.cell}
    assert_file(tmp_path / "x.encoded.npz", expected)


def test_npy_without_states(encode: Run, client: Client, tmp_path: Path) -> None:
    """Where no states are asked for there is no file of them."""
    np.save(tmp_path / "x.npy", floats(4))
    assert encode(tmp_path / "x.npy", "--outputs", "final")[1] == [f"{tmp_path}/x.encoded.npz"]
    final = client.encode(floats(4), outputs=["final"]).final
    assert_file(tmp_path / "x.encoded.npz", {"final": final})


def test_npz(encode: Run, client: Client, tmp_path: Path) -> None:
    """For FILE.npz it writes what it does without --stream."""
    sequences = {f"s{n}": floats(1 + n % 5, n) for n in range(100)}
    np.savez(tmp_path / "x.npz", **sequences)  # type: ignore[arg-type]
    code, written, _ = encode(tmp_path / "x.npz", "--outputs", "states,final", "--in-flight", 3)
    assert (code, written) == (0, [f"{tmp_path}/x.encoded.npz"])
    encodings = client.encode_batch(sequences.values(), outputs=["states", "final"])
    expected: dict[str, Array | None] = {}
    for name, encoding in zip(sequences, encodings, strict=True):
        expected |= {f"{name}.states": encoding.states, f"{name}.final": encoding.final}
    assert_file(tmp_path / "x.encoded.npz", expected)


def test_folder(encode: Run, client: Client, tmp_path: Path) -> None:
    """A folder is every file of arrays in it and below; results and hidden files are none."""
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    for name in ("b.npy", "a.npy", "sub/c.d.npy", ".x.npy", "sub/.hidden/y.npy", "z.states.npy"):
        np.save(tmp_path / name, floats(3))
    np.savez(tmp_path / "sub" / "e.npz", s=floats(3))
    np.savez(tmp_path / "sub" / "f.encoded.npz", s=floats(3))
    (tmp_path / "notes.txt").write_text("not an array")
    written = ["a.states.npy", "b.states.npy", "sub/c.d.states.npy", "sub/e.encoded.npz"]
    for _ in range(2):  # what the first run wrote is no sequence of the second
        assert encode(tmp_path) == (0, [f"{tmp_path}/{name}" for name in written], [])
    assert_states(tmp_path / "sub" / "c.d.states.npy", client.encode(floats(3)).states)


def test_out_dir(encode: Run, tmp_path: Path) -> None:
    """--out-dir takes a folder's results in folders of the same names."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.npy", "sub/a.npy", "sub/b.npz"):
        with (tmp_path / "in" / name).open("wb") as file:
            (np.save if name.endswith("y") else np.savez)(file, floats(3))
    np.save(tmp_path / "c.npy", floats(2))
    assert encode(tmp_path / "in", tmp_path / "c.npy", "--out-dir", tmp_path / "out")[0] == 0
    assert names(tmp_path / "out") == [
        "a.states.npy",
        "c.states.npy",
        "sub/a.states.npy",
        "sub/b.encoded.npz",
    ]


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
    expected: dict[str, Array | None] = {}
    expected |= {f"{name}.states": client.encode(arrays[name]).states for name in "ab"}
    assert_file(tmp_path / "x.encoded.npz", expected)


def refusal(result: tuple[int, list[str], list[str]]) -> str:
    code, written, errors = result
    assert (code, written, len(errors)) == (1, [], 1)
    return errors[0]


def test_refused_at_once(encode: Run, tmp_path: Path) -> None:
    """Results for sequences, an empty folder: nothing is encoded."""
    np.save(tmp_path / "x.npy", floats(2))
    np.save(tmp_path / "x.states.npy", floats(2))
    (tmp_path / "empty").mkdir()
    assert refusal(encode(tmp_path / "x.npy", tmp_path / "x.states.npy")) == (
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


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C is one line and exit code 130, and leaves nothing half written."""
    np.save(tmp_path / "x.npy", floats(2))
    fake = FakeServer()
    fake.answers.clear()
    with (
        serving(fake) as target,
        subprocess.Popen(
            [COMMANDS / "bilstm", "encode", "--stream", tmp_path, "--server", target],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert fake.completed.acquire(timeout=HANGS_AFTER_SECONDS)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=HANGS_AFTER_SECONDS)
    assert (process.returncode, told) == (130, ("", "bilstm: interrupted\n"))
    assert names(tmp_path) == ["x.npy"]


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


def test_lost_server(encode: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is lost in between is no matter."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_SECONDS", 0.001)
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", floats(6, i))
    fake = FakeServer()
    fake.reply_steps = 2
    fake.breaks = [Break(replies=n) for n in (0, 3, 5)]
    with serving(fake) as target:
        assert encode(tmp_path, target=target)[0] == 0
    for i in range(5):
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.states.npy"), sums(floats(6, i)))
    assert len(names(tmp_path)) == 10


def test_a_stream_that_ends_leaves_no_halves(encode: Run, tmp_path: Path) -> None:
    """Files are whole or not there."""
    np.savez(tmp_path / "x.npz", a=floats(2), b=floats(2))
    np.save(tmp_path / "y.npy", floats(4))
    fake = FakeServer()
    fake.reply_steps = 2
    for broken in (2, 4):
        fake.breaks = [Break(replies=broken, code=grpc.StatusCode.INTERNAL)]
        with serving(fake) as target:
            code, _, errors = encode(tmp_path, target=target)
        assert (code, errors) == (1, ["bilstm: INTERNAL: as the script says"])
        assert set(names(tmp_path)) <= {"x.npz", "y.npy", "x.encoded.npz"}


def test_progress_bar(server: RunningServer, tmp_path: Path) -> None:
    """On a terminal a bar counts sequences, steps and bytes."""
    np.savez(tmp_path / "x.npz", **{f"s{n}": floats(2, n) for n in range(65)})  # type: ignore[arg-type]
    text = on_terminal("encode", "--stream", tmp_path / "x.npz", "--server", server.target)
    assert "65/65" in text
    assert "130 steps, 2.54kB" in text


def on_terminal(*arguments: Any) -> str:
    """What the installed command shows on a terminal's standard error."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    shown: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.append(chunk)
        except OSError:  # how Linux ends a terminal whose other side is closed
            return

    reader = threading.Thread(target=read)
    with subprocess.Popen(
        [COMMANDS / "bilstm", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        reader.start()
        assert process.wait(60) == 0
    reader.join(60)
    os.close(ours)
    return b"".join(shown).decode()


def test_without_stream(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder needs --stream."""
    assert client_cli.main(["encode", str(tmp_path), "--server", server.target]) == 1
    assert "Is a directory" in capsys.readouterr().err
