"""Settings in a file: below flags and variables, and refused in one line where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilstm_server.cli import main as server_cli
from bilstm_server.settings import Settings
from tests.cli.loading import Load


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
    "table": ("[server]\nmax_streams = 3", "'server' is a table, and settings stand in none"),
    "setting's table": ("[model]\none = 'x'", "'model' is a table, and settings stand in none"),
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


BAD_VALUES = {
    "number": ("max_streams = 0", "max_streams: ", "got 0"),
    "text": ("threads = 'many'", "threads: ", "got 'many'"),
    "in a list": ("model = ['one']", "model: ", "got 'one'"),
    "bool": ("port = true", "port: must not be true or false, got true", ""),
    "no bool": ("insecure = 'true'", "insecure: must be true or false, without quotes, ", "'true'"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_value_in_a_config_file(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad value in a file is named by the file and its key there."""
    content, *words = BAD_VALUES[case]
    config = tmp_path / "server.toml"
    config.write_text(content)
    assert server_cli.main(["serve", "--config", str(config)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bilstm-server: --config {config}: {words[0]}")
    assert words[1] in line


@pytest.mark.parametrize("place", ["flag", "variable"])
def test_bad_value_above_a_config_file(
    place: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bad flag or variable is named as such, whatever a file says of the setting."""
    config = tmp_path / "server.toml"
    config.write_text("max_streams = 0")
    if place == "variable":
        monkeypatch.setenv("BILSTM_MAX_STREAMS", "none")
    flags = ["--max-streams", "none"] if place == "flag" else []
    assert server_cli.main(["serve", "--config", str(config), *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bilstm-server: --max-streams (BILSTM_MAX_STREAMS): ")
