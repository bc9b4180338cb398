"""`bilstm encode --skip-existing`: what is a result, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bilstm_client.cli.main import main
from tests.client.cli.files import floats
from tests.support.servers import RunningServer

Run = Callable[..., tuple[int, list[str], list[str]]]
CALLS_AND_STREAM = pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["calls", "stream"])


@pytest.fixture
def encode(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `bilstm encode --skip-existing`; returns its exit code and the lines of stdout and
    stderr."""

    def encode(*arguments: object) -> tuple[int, list[str], list[str]]:
        given = ["encode", "--skip-existing", *map(str, arguments), "--server", server.target]
        code = main(given)
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return encode


@CALLS_AND_STREAM
def test_only_what_is_missing(stream: list[str], encode: Run, tmp_path: Path) -> None:
    """Files that have their results are left as they are; the others are encoded."""
    files = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
    for path in files:
        np.savez(path, s=floats(2), t=floats(3))
    assert encode(*stream, files[1]) == (0, [f"{tmp_path}/b.encoded.npz"], [])
    before = (tmp_path / "b.encoded.npz").stat()
    written = [f"{tmp_path}/a.encoded.npz", f"{tmp_path}/c.encoded.npz"]
    assert encode(*stream, *files) == (0, written, [])
    assert (tmp_path / "b.encoded.npz").stat() == before
    assert encode(*stream, *files) == (0, [], [])


@CALLS_AND_STREAM
def test_other_outputs(stream: list[str], encode: Run, tmp_path: Path) -> None:
    """Results that lack an output which is asked for now are none; more than that is no matter."""
    np.savez(tmp_path / "x.npz", s=floats(2))
    np.save(tmp_path / "y.npy", floats(2))
    for path in (tmp_path / "x.npz", tmp_path / "y.npy"):
        for outputs, count in (("final", 1), ("final,state", 1), ("state", 0), ("state,mean", 1)):
            code, written, _ = encode(*stream, path, "--outputs", outputs)
            assert (code, len(written)) == (0, count), (path, outputs)


@CALLS_AND_STREAM
def test_other_arrays(stream: list[str], encode: Run, tmp_path: Path) -> None:
    """Results that lack a sequence which the file has now are none."""
    np.savez(tmp_path / "x.npz", s=floats(2))
    encode(*stream, tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", s=floats(2), t=floats(3))
    assert encode(*stream, tmp_path / "x.npz")[1] == [f"{tmp_path}/x.encoded.npz"]
    with np.load(tmp_path / "x.encoded.npz") as results:
        assert set(results) == {"s.states", "t.states"}


@CALLS_AND_STREAM
def test_half_an_archive(stream: list[str], encode: Run, tmp_path: Path) -> None:
    """An archive that was cut short, by whatever, is no result; nor is another kind of file."""
    np.savez(tmp_path / "x.npz", s=floats(2))
    target = tmp_path / "x.encoded.npz"
    encode(*stream, tmp_path / "x.npz")
    whole = target.read_bytes()
    for broken in (whole[:-30], b"", b"text"):
        target.write_bytes(broken)
        assert encode(*stream, tmp_path / "x.npz") == (0, [str(target)], [])
        with np.load(target) as results:
            assert results["s.states"].shape == (2, 12)


def test_states(encode: Run, tmp_path: Path) -> None:
    """The states of an .npy file are a result if they are whole and of as many steps; its other
    outputs are looked for beside them."""
    np.save(tmp_path / "x.npy", floats(9))
    states, encoded = tmp_path / "x.states.npy", tmp_path / "x.encoded.npz"
    arguments = ("--stream", tmp_path / "x.npy", "--outputs", "states,final")
    both = [str(states), str(encoded)]
    assert encode(*arguments)[1] == both
    assert encode(*arguments)[1] == []
    whole = states.read_bytes()
    for broken in (whole[:-4], whole[:20], b""):
        states.write_bytes(broken)
        assert encode(*arguments)[1] == both
        assert states.read_bytes() == whole
    encoded.unlink()
    assert encode("--stream", tmp_path / "x.npy")[1] == []
    assert encode(*arguments)[1] == both
    np.save(tmp_path / "x.npy", floats(7))
    assert encode("--stream", tmp_path / "x.npy")[1] == [str(states)]


def test_failed_arrays_are_tried_again(encode: Run, tmp_path: Path) -> None:
    """A stream writes what it could encode of a file: that does not make the file done."""
    np.savez(tmp_path / "x.npz", good=floats(2), wide=np.ones((2, 4)))
    for _ in range(2):
        code, written, errors = encode("--stream", tmp_path)
        assert (code, written) == (1, [f"{tmp_path}/x.encoded.npz"])
        assert errors[0].startswith(f"bilstm: {tmp_path}/x.npz: wide: must be [T, 5]")


@CALLS_AND_STREAM
def test_no_file(stream: list[str], encode: Run, tmp_path: Path) -> None:
    """A file that can't be read is said to be so, whatever results are there."""
    np.savez(tmp_path / "x.npz", s=floats(2))
    encode(*stream, tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"")
    code, _, errors = encode(*stream, tmp_path / "x.npz")
    assert code == 1
    assert errors[0] == f"bilstm: {tmp_path}/x.npz: not an .npy or .npz file"
