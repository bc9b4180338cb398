"""`bilstm encode --stream`: files and folders through one stream to a real server."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from bilstm_client import Client
from bilstm_client._streams import patience
from bilstm_client.cli.main import main
from bilstm_client.types import Array
from tests.client.cli.files import ALL_OUTPUTS, assert_file, floats, names, on_terminal
from tests.support.commands import COMMANDS
from tests.support.fake_streams import Break, FakeServer, serving, sums
from tests.support.servers import RunningServer
from tests.support.waiting import HANGS_AFTER_SECONDS

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def encode(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `bilstm encode --stream`; returns its exit code and the lines of stdout and stderr."""

    def encode(*arguments: object, target: str = server.target) -> tuple[int, list[str], list[str]]:
        code = main(["encode", "--stream", *map(str, arguments), "--server", target])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return encode


def assert_states(path: Path, expected: Array) -> None:
    np.testing.assert_allclose(np.load(path, mmap_mode="r"), expected, rtol=0, atol=1e-6)


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
    expected: dict[str, Array] = {o: getattr(encoding, o) for o in ALL_OUTPUTS[1:-1]}
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
    expected: dict[str, Array] = {}
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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Commands that a test starts take Ctrl-C. They inherit that it is ignored, as a shell has it
    for tests that it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
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
    """On a terminal a bar counts the steps of all that there are, and those that were sent."""
    np.savez(tmp_path / "x.npz", **{f"s{n}": floats(2, n) for n in range(65)})  # type: ignore[arg-type]
    text = on_terminal("encode", "--stream", tmp_path / "x.npz", "--server", server.target)
    assert "130/130" in text
    assert "130 sent, 65 sequences" in text


def test_progress_within_a_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar moves while the results of one long file come."""
    monkeypatch.setenv("TQDM_MININTERVAL", "0")  # every change is shown
    np.save(tmp_path / "x.npy", floats(1_000))
    fake = FakeServer()
    fake.reply_steps = 100
    with serving(fake) as target:
        text = on_terminal("encode", "--stream", tmp_path / "x.npy", "--server", target)
    shown = {int(steps) for steps in re.findall(r"(\d+)\.?\d*/1.00k", text)}
    assert shown.issuperset(range(0, 1_000, 100)), text
