"""What is typed into a shell: `bilstm` against a real server, and `bilstm-server`'s settings.

`bilstm-server import` is in test_checkpoint; start and drain of `serve` are in test_lifecycle.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import structlog
from conftest import RunningServer, settings, start_error, write_model
from engines import gated_server

from bilstm_client import AsyncClient, Client
from bilstm_client import cli as client_cli
from bilstm_client.types import Array, OutputName
from bilstm_server.cli import main as server_cli
from bilstm_server.cli import serve as serve_command
from bilstm_server.errors import DeviceLost
from bilstm_server.settings import SHIPPED_MODEL, Settings, check_environment

COMMANDS = Path(sys.executable).parent
ALL_OUTPUTS: tuple[OutputName, ...] = ("states", "final", "mean", "max", "logits", "state")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BILSTM_")]:
        monkeypatch.delenv(name)


def run(command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """An installed command in a process of its own."""
    return subprocess.run(
        [COMMANDS / command, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def floats(steps: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, steps)).standard_normal((steps, 5), dtype=np.float32)


def assert_file(path: Path, expected: dict[str, Array | None]) -> None:
    """The .npz has these arrays and no others; a batch may move their last bits."""
    with np.load(path) as written:
        assert set(written) == set(expected)
        for name, array in expected.items():
            assert array is not None
            np.testing.assert_allclose(written[name], array, rtol=0, atol=1e-6, err_msg=name)


# -- bilstm encode ----------------------------------------------------------------------------

Encode = Callable[..., list[str]]


@pytest.fixture
def encode(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Encode:
    """Runs `bilstm encode` on the shared server; returns the lines it printed."""

    def encode(*arguments: object) -> list[str]:
        given = ["encode", *map(str, arguments), "--server", server.target]
        assert client_cli.main(given) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    return encode


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


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
    expected: dict[str, Array | None] = {}
    for name, encoding in named:
        expected |= {f"{name}.final": encoding.final, f"{name}.logits": encoding.logits}
    assert_file(tmp_path / "many.encoded.npz", expected)


def test_encode_all_outputs(encode: Encode, client: Client, tmp_path: Path) -> None:
    """Every output has its name in the file, the state as hidden and cell."""
    x = floats(6)
    np.save(tmp_path / "x.npy", x)
    encode(tmp_path / "x.npy", "--outputs", ",".join(ALL_OUTPUTS))
    encoding = client.encode(x, outputs=ALL_OUTPUTS)
    assert encoding.state is not None
    expected: dict[str, Array | None] = {o: getattr(encoding, o) for o in ALL_OUTPUTS[:-1]}
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
    """Results are no sequences: where a pattern names them too, nothing is encoded."""
    np.save(tmp_path / "x.npy", floats(2))
    np.savez(tmp_path / "x.encoded.npz", states=floats(2))
    line = refusal(capsys, server, *sorted(tmp_path.iterdir(), reverse=True))
    assert line == f"{tmp_path / 'x.encoded.npz'}: holds results, not sequences"


def refusal(capsys: pytest.CaptureFixture[str], server: RunningServer, *arguments: object) -> str:
    """Runs `bilstm encode`, which must fail; returns the one line it says."""
    given = ["encode", *map(str, arguments), "--server", server.target]
    assert client_cli.main(given) == 1
    return one_line(capsys.readouterr().err)


def one_line(stderr: str) -> str:
    """The one line on standard error, less the command's name."""
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("bilstm: ")
    return stderr.removeprefix("bilstm: ").rstrip("\n")


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


GOOD, OBJECTS = npy(np.ones((2, 5))), npy(np.array([{"a": 1}], dtype=object))
NEITHER, UNREADABLE = r"not an \.npy or \.npz file", "can't be read: .+"
BROKEN: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("x.npy", None, "No such file or directory"),
    "empty": ("x.npy", b"", NEITHER),
    "empty .npz": ("x.npz", b"", NEITHER),
    "text": ("x.csv", b"1,2,3\n", NEITHER),
    "half a header": ("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr", UNREADABLE),
    "unknown version": ("x.npy", b"\x93NUMPY\x09\x00v\x00{'descr", UNREADABLE),
    "half the numbers": ("x.npy", GOOD[:-8], UNREADABLE),
    "torn .npz": ("x.npz", b"PK\x03\x04" + b"\0" * 60, UNREADABLE),
    "damaged .npz": ("x.npz", npz(s=GOOD).replace(b"\xf0\x3f", b"\xf0\x40"), f"s: {UNREADABLE}"),
    "no array in .npz": ("x.npz", npz(ok=GOOD, s=b"text"), f"s: {UNREADABLE}"),
    "no arrays": ("x.npz", npz(), "holds no arrays"),
    "objects": ("x.npy", OBJECTS, "holds Python objects, not numbers"),
    "objects in .npz": ("x.npz", npz(ok=GOOD, s=OBJECTS), "s: holds Python objects, not numbers"),
    "text in .npy": ("x.npy", npy(np.array(["a", "b"])), "must be an array of numbers, got <U1"),
    "complex in .npz": (
        "x.npz",
        npz(ok=GOOD, s=npy(np.ones((2, 5)) * 1j)),
        "s: must be an array of numbers, got complex128",
    ),
    "too wide": ("x.npy", npy(np.ones((2, 4))), r"must be \[T, 5\] \(input_size\), got \[2, 4\]"),
    "too wide in .npz": (
        "x.npz",
        npz(ok=GOOD, s100=npy(np.ones((2, 4)))),
        r"s100: must be \[T, 5\] \(input_size\), got \[2, 4\]",
    ),
}


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the disk fills up, the results of a run before stay, and nothing half written."""
    np.save(tmp_path / "x.npy", floats(2))
    encode(tmp_path / "x.npy")
    before = (tmp_path / "x.encoded.npz").read_bytes()

    def fills_up(file: IO[bytes], **arrays: Array) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", fills_up)
    line = refusal(capsys, server, tmp_path / "x.npy")
    target = tmp_path / "x.encoded.npz"
    assert line == f"{target}: can't be written: No space left on device"
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.encoded.npz", "x.npy"]


BAD_ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "unknown output": (
        ["--outputs", "final,bogus"],
        "argument --outputs: 'bogus' is no output; "
        "there are: states, final, mean, max, logits, state",
    ),
    "no output": (["--outputs", ""], "argument --outputs: '' is no output; "),
    "no server": (["--server", ""], "argument --server: target '': must have a host"),
    "web server": (
        ["--server", "http://localhost:50051"],
        "argument --server: target 'http://localhost:50051': must be HOST:PORT, without http://",
    ),
    "nothing in flight": (["--in-flight", "0"], "argument --in-flight: must be 1 or more, got 0"),
    "endless": (["--timeout-seconds", "inf"], "argument --timeout-seconds: timeout_seconds must"),
    "no number": (["--timeout-seconds", "1s"], "argument --timeout-seconds: could not convert"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_encode_bad_argument(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad argument is one clear line under the usage, and exit code 2."""
    arguments, wrong = BAD_ARGUMENTS[case]
    with pytest.raises(SystemExit) as caught:
        client_cli.main(["encode", *arguments, "x.npy"])
    assert caught.value.code == 2
    assert f"bilstm encode: error: {wrong}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["encode", "models"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help tells the defaults that there are."""
    with pytest.raises(SystemExit):
        client_cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert "default: localhost:50051" in shown
    assert "None" not in shown
    assert "default: )" not in shown


def test_encode_unwritable(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results that can't be written are one line, and exit code 1."""
    np.save(tmp_path / "x.npy", floats(2))
    line = refusal(capsys, server, tmp_path / "x.npy", "--out-dir", tmp_path / "x.npy")
    assert line.startswith(f"{tmp_path / 'x.npy' / 'x.encoded.npz'}: can't be written: ")


def test_no_server(tmp_path: Path) -> None:
    """Where no server is, the installed command says so in one line, and exits with 1."""
    np.save(tmp_path / "x.npy", floats(2))
    nowhere = "127.0.0.1:1"  # a privileged port that nothing listens on
    failed = run("bilstm", "encode", tmp_path / "x.npy", "--server", nowhere)
    assert failed.returncode == 1
    line = one_line(failed.stderr)
    assert line.startswith(f"no server answers at {nowhere}: ")
    assert "Connection refused" in line


def test_progress_bar(server: RunningServer, tmp_path: Path) -> None:
    """On a terminal a progress bar counts the sequences."""
    np.savez(tmp_path / "x.npz", **{f"s{n}": floats(2, n) for n in range(65)})  # type: ignore[arg-type]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    shown: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.append(chunk)
        except OSError:  # how Linux ends a terminal whose other side is closed
            return

    reader = threading.Thread(target=read)
    with subprocess.Popen(
        [COMMANDS / "bilstm", "encode", tmp_path / "x.npz", "--server", server.target],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        reader.start()
        assert process.wait(60) == 0
    reader.join(60)
    os.close(ours)
    text = b"".join(shown).decode()
    assert "65/65" in text
    assert "sequence" in text


def test_no_progress_bar_in_a_pipe(server: RunningServer, tmp_path: Path) -> None:
    """Where standard error is no terminal, nothing is written to it."""
    np.save(tmp_path / "x.npy", floats(2))
    done = run("bilstm", "encode", tmp_path / "x.npy", "--server", server.target)
    assert (done.returncode, done.stderr) == (0, "")


# -- bilstm health ----------------------------------------------------------------------------


def test_health(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`bilstm health` says so and exits 0 where the server is ready."""
    assert client_cli.main(["health", "--server", server.target]) == 0
    assert capsys.readouterr().out == "ready\n"


async def test_health_of_a_draining_server(model_folder: Path) -> None:
    """`bilstm health` exits 1 in a drain's delay, and where no server listens any more."""
    delayed = settings(model=[("small", model_folder)], drain_delay_seconds=10)
    async with gated_server(delayed) as (app, gated):
        target = f"127.0.0.1:{app.port}"
        async with AsyncClient(target) as client:
            assert await client.is_ready()
            waiting = asyncio.create_task(client.encode(floats(3)))
            await gated.engines[model_folder.name].arrival()
            draining = asyncio.create_task(app.drain())
            while await client.is_ready():  # noqa: ASYNC110 (it is asked over the wire)
                await asyncio.sleep(0)
            failed = await asyncio.to_thread(run, "bilstm", "health", "--server", target)
            gated.open()
            await waiting
            draining.cancel()
    assert (failed.returncode, failed.stderr) == (
        1,
        f"bilstm: the server at {target} is not ready\n",
    )
    gone = run("bilstm", "health", "--server", target)
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"bilstm: no server answers at {target}")


# -- bilstm models, versions ------------------------------------------------------------------


def test_models(server: RunningServer, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """`bilstm models` has a block for each model: what it takes, gives and is, and its limits."""
    assert client_cli.main(["models", "--server", server.target]) == 0
    limits = client.get_model().limits
    limits_line = (
        f"  limits   {limits.max_sequence_tokens:,} steps in a sequence; "
        f"{limits.max_request_sequences:,} sequences, {limits.max_request_tokens:,} steps and "
        f"{limits.max_message_bytes:,} bytes in a request; {limits.max_stream_sequences:,} "
        f"sequences and {limits.max_stream_bytes:,} bytes in flight in a stream"
    )
    assert capsys.readouterr().out.splitlines() == [
        "small version 1 (default)",
        "  takes    [T, 5] floats",
        "  sizes    hidden 6, layers 2, bidirectional",
        "  outputs  states, final, mean, max, logits, state",
        "  classes  3, with 3 labels",
        limits_line,
        "tokens version 1",
        "  takes    [T] token ids below 20",
        "  sizes    hidden 6, layers 2, bidirectional",
        "  outputs  states, final, mean, max, state",
        limits_line,
    ]


def test_models_with_a_projection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model's direction and projection are told."""
    folder = write_model(tmp_path / "model", bidirectional=False, proj_size=3)
    running = RunningServer(settings(model=[("forward", folder)]))
    try:
        assert client_cli.main(["models", "--server", running.target]) == 0
    finally:
        running.close()
    sizes = "  sizes    hidden 6, layers 2, unidirectional, projection 3"
    assert sizes in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", ["bilstm", "bilstm-server"])
def test_version(command: str) -> None:
    """--version names the command and the installed version."""
    done = run(command, "--version")
    assert (done.returncode, done.stdout) == (0, f"{command} {version('bilstm')}\n")


# -- bilstm-server's settings -----------------------------------------------------------------

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Runs `bilstm-server serve` up to where it would serve; returns the settings it has."""
    loaded: list[Settings] = []

    async def serve(settings: Settings) -> bool:
        loaded.append(settings)
        return True

    monkeypatch.setattr(serve_command, "serve", serve)

    def load(*flags: str, **environment: str) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert server_cli.main(["serve", *flags]) == 0
        return loaded.pop()

    yield load
    structlog.reset_defaults()  # `serve` sends the log to this test's standard error


def test_help_has_every_setting() -> None:
    """`serve --help` has a flag for every setting, with what it means."""
    done = run("bilstm-server", "serve", "--help", COLUMNS="200")
    assert done.returncode == 0
    flags = set(re.findall(r"^\s+--([a-z0-9-]+)", done.stdout, re.MULTILINE))
    assert flags == {"config", *(name.replace("_", "-") for name in Settings.model_fields)}
    plain = " ".join(done.stdout.split())
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert " ".join(field.description.split()) in plain


def test_lost_device(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A server whose GPU is lost ends with 1, and its log's last line says so, and why."""

    async def serve(_: Settings) -> bool:
        raise DeviceLost("the GPU is lost") from RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(serve_command, "serve", serve)
    assert server_cli.main(["serve", "--log-format", "json"]) == 1
    event = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert (event["event"], event["level"]) == ("device lost", "error")
    assert event["cause"] == "CUDA error: misaligned address"


def test_defaults(load: Load) -> None:
    """Without flags and environment the settings are the defaults; it binds loopback."""
    loaded = load()
    assert loaded == Settings.model_construct()
    assert (loaded.host, loaded.port, loaded.metrics_port) == ("127.0.0.1", 50051, 9464)
    assert loaded.find_models() == ((SHIPPED_MODEL,), [])


OTHER_VALUES: dict[str, Any] = {
    "model": (("a", Path("x")),),
    "device": "cpu",
    "dtype": "bfloat16",
    "float32_matmul_precision": "high",
    "kernel": "reference",
    "host": "0.0.0.0",
    "metrics_host": "::1",
    "log_format": "console",
    "max_queue_delay": 0.25,
    "max_queue_seconds": 3.0,
    "connection_idle_seconds": 60.0,
    "receive_seconds": 5.0,
    "reply_seconds": 15.0,
    "stream_idle_seconds": 100.0,
    "drain_delay_seconds": 1.5,
    "drain_timeout_seconds": 7.0,
    "max_queue_tokens": 200_000,
    "slice_seconds": 0.005,
    "threads": 3,
    "max_device_bytes": 8 * 1024**3,
    "models_folder": Path("/"),
    "tracing_endpoint": "http://collector:4317",
    "tracing_sample_ratio": 0.25,
}


def other_value(name: str) -> Any:
    """A value for the setting that is not its default."""
    default = Settings.model_fields[name].default
    return OTHER_VALUES.get(name, default - 1 if isinstance(default, int) else default)


def written(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(f"{n}={f}" for n, f in value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_by_environment(name: str, load: Load) -> None:
    """Every setting can be made by its environment variable."""
    value = other_value(name)
    assert value != Settings.model_fields[name].default
    few = {"BILSTM_MAX_SEQUENCE_TOKENS": "100"}  # so that the bounds nest
    loaded = load(**(few | {f"BILSTM_{name.upper()}": written(value)}))
    assert getattr(loaded, name) == value


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_by_flag(name: str, load: Load) -> None:
    """Every setting can be made by its flag, which wins over the environment."""
    value = other_value(name)
    default = Settings.model_fields[name].default
    outside = "b=y,c=z" if name == "model" else written(default)
    flag = f"--{name.replace('_', '-')}"
    few = {"BILSTM_MAX_SEQUENCE_TOKENS": "100"}
    loaded = load(flag, written(value), **(few | {f"BILSTM_{name.upper()}": outside}))
    assert getattr(loaded, name) == value


def test_empty_variable_is_unset(load: Load) -> None:
    """An empty environment variable, as compose files make them, leaves the default."""
    assert load(BILSTM_PORT="", BILSTM_MODEL="") == load()


def test_bad_value_is_named_as_it_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal names flag and variable, and shows the value; bounds name both flags."""
    assert server_cli.main(["serve", "--max-batch-tokens", "many"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("bilstm-server: --max-batch-tokens (BILSTM_MAX_BATCH_TOKENS): ")
    assert line.endswith("got 'many'\n")
    assert server_cli.main(["serve", "--max-batch-tokens", "5"]) == 1
    assert capsys.readouterr().err == (
        "bilstm-server: --max-sequence-tokens (16384) must not exceed --max-batch-tokens (5)\n"
    )


@pytest.mark.parametrize("size", ["64MiB", "1GB", "1.5gib", "1048576"])
def test_sizes_take_units(size: str, load: Load) -> None:
    """Bytes can be given with a unit, of 1000 or of 1024, or plainly."""
    expected = {"64MiB": 64 * 1024**2, "1GB": 10**9, "1.5gib": 3 * 2**29, "1048576": 2**20}
    flags = load("--max-receive-bytes", size)
    assert flags.max_receive_bytes == expected[size]
    assert load(BILSTM_MAX_RECEIVE_BYTES=size).max_receive_bytes == expected[size]


@pytest.mark.parametrize("size", ["64 MiBs", "GB", "-1MiB", "1e5"])
def test_what_is_no_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no size is refused, with the flag named and an example of one."""
    assert server_cli.main(["serve", f"--max-receive-bytes={size}"]) == 1
    assert capsys.readouterr().err == (
        "bilstm-server: --max-receive-bytes (BILSTM_MAX_RECEIVE_BYTES): must be a number of bytes, "
        f"such as 1048576, 64MiB or 4GB, got '{size}'\n"
    )


def test_config_file(load: Load, tmp_path: Path, model_folder: Path) -> None:
    """A file's settings have the flags' names. A flag wins over a variable, and that over the
    file, and the file over defaults."""
    config = tmp_path / "server.toml"
    config.write_text(
        f"model = ['one={model_folder}', 'two={model_folder}']\n"
        "max_receive_bytes = '64MiB'\nmax_streams = 3\nmax_calls = 3\nmax_connections = 3\n"
    )
    variables = {"BILSTM_MAX_CALLS": "2", "BILSTM_MAX_CONNECTIONS": "2"}
    loaded = load("--config", str(config), "--max-calls", "1", **variables)
    assert [source.name for source in loaded.model] == ["one", "two"]
    assert loaded.max_receive_bytes == 64 * 1024**2
    assert (loaded.max_calls, loaded.max_connections, loaded.max_streams) == (1, 2, 3)
    assert loaded.max_batch_sequences == Settings.model_fields["max_batch_sequences"].default
    assert load(BILSTM_CONFIG=str(config)).max_streams == 3


CONFIGS: dict[str, tuple[str | bytes | None, str]] = {
    "unknown": ("max_stream = 3", "'max_stream' is no setting; nearest: max_streams"),
    "table": ("[server]\nmax_streams = 3", "'server' is no setting; nearest: "),
    "flag's name": ("max-streams = 3", "'max-streams' is no setting; nearest: max_streams"),
    "no TOML": ("max_streams: 3", "Expected '=' after a key"),
    "no text": (b"\xff\xfe", "can't decode byte 0xff"),
    "nothing": (None, "No such file or directory"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_bad_config_file(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that can't be used is refused in one line that names it and what is wrong."""
    content, words = CONFIGS[case]
    config = tmp_path / "server.toml"
    if content is not None:
        config.write_bytes(content.encode() if isinstance(content, str) else content)
    assert server_cli.main(["serve", "--config", str(config)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bilstm-server: --config {config}: ")
    assert words in line


def test_bad_value_in_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad value in a file is named as on the command line."""
    config = tmp_path / "server.toml"
    config.write_text("max_streams = 0")
    assert server_cli.main(["serve", "--config", str(config)]) == 1
    assert "--max-streams (BILSTM_MAX_STREAMS): " in capsys.readouterr().err


def test_models_by_flags(load: Load) -> None:
    """--model may be repeated, and each may name several models, in order."""
    loaded = load("--model", "a=x", "--model", "b=y/z")
    assert loaded.model == (("a", Path("x")), ("b", Path("y/z")))
    assert load("--model", "a=x,b=y/z").model == loaded.model
    assert load(BILSTM_MODEL="a=x,b=y/z").model == loaded.model


def test_models_folder(load: Load, tmp_path: Path) -> None:
    """Every model in --models-folder has its folder's name, behind --model or the one that ships;
    hidden folders are none, and those without a model are told of."""
    for name in ("b", "a", ".git", "lost+found"):
        (tmp_path / name).mkdir()
    for name in ("a/config.json", "b/config.json", "README.md"):
        (tmp_path / name).touch()
    a, b = ("a", tmp_path / "a"), ("b", tmp_path / "b")
    loaded = load("--models-folder", str(tmp_path))
    assert loaded.find_models() == (
        (SHIPPED_MODEL, a, b),
        [(tmp_path / "lost+found", "it has no config.json")],
    )
    named = load("--model", "x=y", "--model", f"z={tmp_path}/b", "--models-folder", str(tmp_path))
    assert named.find_models()[0] == (("x", Path("y")), ("z", tmp_path / "b"), a)


def test_what_a_models_folder_leaves_out(load: Load, tmp_path: Path) -> None:
    """Whatever lies in --models-folder and is not served is told of, and why; names that can't be
    printed are not served."""
    (tmp_path / "classifier.pt").touch()
    (tmp_path / "README.md").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "away")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "own link").mkdir()
    (tmp_path / "own link" / "config.json").symlink_to("away.json")
    hostile = ("a\nb", "\x1b[2J", "\u202emodel", os.fsdecode(b"\xff"))
    for name in ("good", *hostile):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    sources, left_out = load("--models-folder", str(tmp_path)).find_models()
    assert sources == (SHIPPED_MODEL, ("good", tmp_path / "good"))
    assert {path.name: reason for path, reason in left_out} == {
        "classifier.pt": "it is no folder",
        "fifo": "it is no folder",
        "dangling": "it is a link to what is not there",
        "loop": "Too many levels of symbolic links",
        "own link": "it has no config.json",
        **dict.fromkeys(hostile, "its name has characters that can't be printed"),
    }


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_hostile_names_are_not_echoed(log_format: str, tmp_path: Path) -> None:
    """What is left out is a warning each, in which a name stays on its line."""
    (tmp_path / "a\n\x1b[2Jb").mkdir()
    arguments = f"--models-folder={tmp_path}", f"--model=x={tmp_path}/none"
    free = "--port=0", "--metrics-port=0", f"--log-format={log_format}"
    ended = run("bilstm-server", "serve", *arguments, *free)
    (line,) = (line for line in ended.stderr.splitlines() if "not served" in line)
    assert "can't be printed" in line
    assert "\x1b" not in ended.stderr


def test_a_client_that_can_not_print(server: RunningServer) -> None:
    """A command whose standard output is full says so in a line."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [COMMANDS / "bilstm", "models", "--server", server.target],
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stderr == "bilstm: can't write to standard output: No space left on device\n"


MISSPELT: dict[str, tuple[str, str]] = {
    "one letter less": ("BILSTM_MAX_BATCH_TOKEN", "BILSTM_MAX_BATCH_TOKENS"),
    "another word": ("BILSTM_METRIC_PORT", "BILSTM_METRICS_PORT"),
    "lower case": ("bilstm_max_stream", "BILSTM_MAX_STREAMS"),
}


@pytest.mark.parametrize("case", MISSPELT)
def test_misspelt_variable(case: str) -> None:
    """A variable that is no setting ends the start, with the nearest name that is one."""
    name, nearest = MISSPELT[case]
    ended = run("bilstm-server", "serve", **{name: "5"})
    assert ended.returncode == 1
    assert ended.stderr == (
        f"bilstm-server: {name!r} in the environment is no setting; nearest: {nearest}\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BILSTM_SERVICE_HOST", "10.0.0.1"),
        ("BILSTM_SERVICE_PORT", "50051"),
        ("BILSTM_SERVER_SERVICE_PORT_GRPC", "50051"),
        ("BILSTM_SERVER_PORT", "tcp://10.0.0.1:50051"),
        ("BILSTM_SERVER_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("bilstm_max_streams", "5"),
        ("OTHER", "5"),
    ],
)
def test_variables_of_others(name: str, value: str) -> None:
    """What Kubernetes puts into a pod's environment for a Service of that name is let pass."""
    check_environment({name: value})


def test_models_folder_replaces_the_shipped_model(load: Load, tmp_path: Path) -> None:
    """A model found under the name of the one that ships is served in its place."""
    own = tmp_path / SHIPPED_MODEL.name
    own.mkdir()
    (own / "config.json").touch()
    loaded = load("--models-folder", str(tmp_path))
    assert loaded.find_models() == (((SHIPPED_MODEL.name, own),), [])


BAD: dict[str, tuple[list[str], dict[str, str], str]] = {
    "not a number": (["--max-batch-tokens", "many"], {}, "max_batch_tokens"),
    "negative": (["--max-message-bytes", "-1"], {}, "max_message_bytes"),
    "zero": (["--max-batch-sequences", "0"], {}, "max_batch_sequences"),
    "port too high": (["--port", "65536"], {}, "port"),
    "unknown device": (["--device", "tpu"], {}, "device"),
    "unknown kernel": (["--kernel", "fastest"], {}, "kernel"),
    "model without folder": (["--model", "a"], {}, "model"),
    "model without name": (["--model", "=x"], {}, "model"),
    "no models folder": (["--models-folder", "/no/such"], {}, "models_folder"),
    "a model for a models folder": (
        ["--models-folder", str(SHIPPED_MODEL.folder)],
        {},
        "models_folder",
    ),
    "environment": ([], {"BILSTM_MAX_BATCH_TOKENS": "1.5"}, "max_batch_tokens"),
    "environment's model": ([], {"BILSTM_MODEL": "a=x,b"}, "model"),
    "nan": (["--max-queue-delay", "nan"], {}, "max_queue_delay"),
    "infinite": (["--drain-timeout-seconds", "inf"], {}, "drain_timeout_seconds"),
    "beyond the wire's numbers": (["--max-request-sequences", str(2**31)], {}, "max_request"),
    "name too long": (["--model", f"{'a' * 256}=x"], {}, "model"),
    "no address": (["--host", "unix:"], {}, "host"),
    "a long value": (["--device", "x" * 100_000], {}, "device"),
    "name not printable": (["--model", "a\n=x"], {}, "model"),
    "bounds that do not nest": (["--max-batch-tokens", "5"], {}, "max_batch_tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_setting(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad value is one clear line that names its setting, and an exit code that is not 0."""
    flags, environment, named = BAD[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    async def serve(settings: Settings) -> bool:
        """Would serve: the value was taken."""
        return True

    monkeypatch.setattr(serve_command, "serve", serve)
    try:
        code: Any = server_cli.main(["serve", *flags])
    except SystemExit as error:  # as argparse leaves, after a usage line
        code = error.code
    finally:
        structlog.reset_defaults()
    assert code in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bilstm-server")
    assert named in last.replace("-", "_")
    assert len(last) < 1_000


def test_model_twice(tmp_path: Path) -> None:
    """Two models of one name and version are one clear line: nothing is served."""
    folder = write_model(tmp_path / "model")
    failed = run(
        "bilstm-server", "serve", f"--model=a={folder},a={folder}", "--port=0", "--metrics-port=0"
    )
    assert failed.returncode == 1
    assert "twice" in start_error(failed.stderr)
