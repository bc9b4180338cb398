"""What is typed into a shell: `bilstm` against a real server, and `bilstm-server`'s settings.

`bilstm-server import` is in test_checkpoint; start and drain of `serve` are in test_lifecycle.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from conftest import RunningServer, write_model

from bilstm_client import Client
from bilstm_client import cli as client_cli
from bilstm_client.types import Array, OutputName
from bilstm_server import cli as server_cli
from bilstm_server.settings import Settings

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
    encode(tmp_path / "many.npz", "--outputs", "final", "logits")
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
    encode(tmp_path / "x.npy", "--outputs", *ALL_OUTPUTS)
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
    """Two files whose results would have one name are refused, not written over each other."""
    files = [tmp_path / name for name in names]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            (np.save if path.suffix == ".npy" else np.savez)(file, floats(2))
    given = ["encode", *map(str, files), "--out-dir", str(tmp_path), "--server", server.target]
    assert client_cli.main(given) == 1
    assert one_line(capsys.readouterr().err)


def one_line(stderr: str) -> str:
    """The one line on standard error, less the command's name."""
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("bilstm: ")
    return stderr.removeprefix("bilstm: ").rstrip("\n")


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


BROKEN: dict[str, tuple[str, bytes | None]] = {
    "missing": ("x.npy", None),
    "empty": ("x.npy", b""),
    "empty .npz": ("x.npz", b""),
    "text": ("x.npy", b"1,2,3\n"),
    "half a header": ("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr"),
    "torn .npz": ("x.npz", b"PK\x03\x04" + b"\0" * 60),
    "objects": ("x.npy", pickled()),
}


@pytest.mark.parametrize("case", BROKEN)
def test_encode_broken_file(
    case: str, server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that can't be read is one line that names it, and exit code 1."""
    name, content = BROKEN[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert client_cli.main(["encode", str(tmp_path / name), "--server", server.target]) == 1
    assert str(tmp_path / name) in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("steps", [np.array("text"), np.array(["a", "b"]), np.ones((2, 5)) * 1j])
def test_encode_no_numbers(
    steps: Array, server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An array that is no sequence of numbers is one line, and exit code 1."""
    np.save(tmp_path / "x.npy", steps)
    given = ["encode", str(tmp_path / "x.npy"), "--server", server.target]
    assert client_cli.main(given) == 1
    one_line(capsys.readouterr().err)


def test_encode_refused(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the server refuses is one line with its reason, and exit code 1."""
    np.save(tmp_path / "x.npy", np.ones((2, 4)))
    given = ["encode", str(tmp_path / "x.npy"), "--server", server.target]
    assert client_cli.main(given) == 1
    assert "must be [T, 5]" in one_line(capsys.readouterr().err)


def test_encode_unwritable(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results that can't be written are one line, and exit code 1."""
    np.save(tmp_path / "x.npy", floats(2))
    given = ["encode", str(tmp_path / "x.npy"), "--server", server.target]
    assert client_cli.main([*given, "--out-dir", str(tmp_path / "x.npy")]) == 1
    assert str(tmp_path / "x.npy") in one_line(capsys.readouterr().err)


def test_no_server(tmp_path: Path) -> None:
    """Where no server is, the installed command says so in one line, and exits with 1."""
    np.save(tmp_path / "x.npy", floats(2))
    nowhere = "127.0.0.1:1"  # a privileged port that nothing listens on
    failed = run("bilstm", "encode", tmp_path / "x.npy", "--server", nowhere)
    assert failed.returncode == 1
    assert "UNAVAILABLE" in one_line(failed.stderr)


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


# -- bilstm models, versions ------------------------------------------------------------------


def test_models(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`bilstm models` has a line for each model: what it takes, and its sizes."""
    assert client_cli.main(["models", "--server", server.target]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "small version 1: [T, 5] floats; hidden 6, layers 2, classes 3",
        "tokens version 1: [T] token ids below 20; hidden 6, layers 2",
    ]


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

    async def serve(settings: Settings) -> None:
        loaded.append(settings)

    monkeypatch.setattr(server_cli, "serve", serve)

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
    flags = set(re.findall(r"^\s+--([a-z-]+)", done.stdout, re.MULTILINE))
    assert flags == {name.replace("_", "-") for name in Settings.model_fields}
    plain = " ".join(done.stdout.split())
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert " ".join(field.description.split()) in plain


def test_defaults(load: Load) -> None:
    """Without flags and environment the settings are the defaults; it binds loopback."""
    loaded = load()
    assert loaded == Settings.model_construct()
    assert (loaded.host, loaded.port, loaded.metrics_port) == ("127.0.0.1", 50051, 9464)
    assert [source.name for source in loaded.models] == ["japanese_vowels"]


OTHER_VALUES: dict[str, Any] = {
    "model": (("a", Path("x")),),
    "device": "cpu",
    "dtype": "bfloat16",
    "kernel": "reference",
    "host": "0.0.0.0",
    "log_format": "console",
    "max_queue_delay": 0.25,
    "drain_delay_seconds": 1.5,
    "drain_timeout_seconds": 7.0,
    "max_queue_tokens": 200_000,
}


def other_value(name: str) -> Any:
    """A value for the setting that is not its default."""
    default = Settings.model_fields[name].default
    return OTHER_VALUES.get(name, default - 1 if isinstance(default, int) else default)


def written(value: Any) -> str:
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


def test_models_by_flags(load: Load) -> None:
    """--model may be repeated, and each may name several models, in order."""
    loaded = load("--model", "a=x", "--model", "b=y/z")
    assert loaded.model == (("a", Path("x")), ("b", Path("y/z")))
    assert load("--model", "a=x,b=y/z").model == loaded.model
    assert load(BILSTM_MODEL="a=x,b=y/z").model == loaded.model


BAD: dict[str, tuple[list[str], dict[str, str], str]] = {
    "not a number": (["--max-batch-tokens", "many"], {}, "max_batch_tokens"),
    "negative": (["--max-message-bytes", "-1"], {}, "max_message_bytes"),
    "zero": (["--max-batch-sequences", "0"], {}, "max_batch_sequences"),
    "port too high": (["--port", "65536"], {}, "port"),
    "unknown device": (["--device", "tpu"], {}, "device"),
    "unknown kernel": (["--kernel", "fastest"], {}, "kernel"),
    "model without folder": (["--model", "a"], {}, "model"),
    "model without name": (["--model", "=x"], {}, "model"),
    "environment": ([], {"BILSTM_MAX_BATCH_TOKENS": "1.5"}, "max_batch_tokens"),
    "environment's model": ([], {"BILSTM_MODEL": "a=x,b"}, "model"),
    "empty environment": ([], {"BILSTM_PORT": ""}, "port"),
    "nan": (["--max-queue-delay", "nan"], {}, "max_queue_delay"),
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

    async def serve(settings: Settings) -> None:
        """Would serve: the value was taken."""

    monkeypatch.setattr(server_cli, "serve", serve)
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


def test_model_twice(tmp_path: Path) -> None:
    """Two models of one name and version are one clear line: nothing is served."""
    folder = write_model(tmp_path / "model")
    failed = run(
        "bilstm-server", "serve", f"--model=a={folder},a={folder}", "--port=0", "--metrics-port=0"
    )
    assert failed.returncode == 1
    lines = [line for line in failed.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert lines[0].startswith("bilstm-server: ")
    assert "twice" in lines[0]
