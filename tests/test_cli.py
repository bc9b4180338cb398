"""What is typed into a shell for `bilstm-server`: its settings.

`bilstm-server import` is in test_checkpoint; start and drain of `serve` are in test_lifecycle; the
client's command is in test_cli_client and test_cli_encode.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import structlog
from conftest import start_error, write_model

from bilstm_server.cli import main as server_cli
from bilstm_server.cli import serve as serve_command
from bilstm_server.errors import DeviceLost
from bilstm_server.settings import SHIPPED_MODEL, Settings, check_environment

COMMANDS = Path(sys.executable).parent


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


def test_version() -> None:
    """--version names the command and the installed version."""
    done = run("bilstm-server", "--version")
    assert (done.returncode, done.stdout) == (0, f"bilstm-server {version('bilstm')}\n")


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
    "max_queue_tokens": 200_000,
    "threads": 3,
    "max_device_bytes": 8 * 1024**3,
    "models_folder": Path("/"),
    "tracing_endpoint": "http://collector:4317",
    "tracing_sample_ratio": 0.25,
}


def other_value(name: str) -> Any:
    """A value for the setting that is not its default."""
    default = Settings.model_fields[name].default
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    return default - 1 if isinstance(default, int) else default + 0.5


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
