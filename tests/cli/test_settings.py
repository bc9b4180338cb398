"""Every setting by flag and by environment variable, and bad ones in one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from bilstm_server.callers import Priority
from bilstm_server.cli import main as server_cli
from bilstm_server.cli import serve as serve_command
from bilstm_server.settings import SHIPPED_MODEL, Settings, check_environment
from bilstm_server.settings.named_callers import CallerPriority, CallerShare
from tests.cli.loading import Load
from tests.support.commands import run


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
    "tls_cert": Path("server.pem"),
    "tls_key": Path("server.key"),
    "tls_client_ca": Path("authorities.pem"),
    "tls_client_port": 50052,
    "tokens_file": Path("tokens"),
    "insecure": True,
    "caller_header": "x-forwarded-for",
    "health": "callers",
    "reflection": "off",
    "metrics_tls_cert": Path("metrics.pem"),
    "metrics_tls_key": Path("metrics.key"),
    "metrics_token_file": Path("metrics-token"),
    "caller_share": (CallerShare("bulk", 0.5),),
    "caller_priority": (CallerPriority("bulk", Priority.LOW),),
}


# So that the bounds nest, and what belongs together is given together.
BESIDE = {
    "BILSTM_MAX_SEQUENCE_TOKENS": "100",
    "BILSTM_TLS_CERT": "beside.pem",
    "BILSTM_TLS_KEY": "beside.key",
    "BILSTM_TLS_CLIENT_CA": "beside.pem",
    "BILSTM_METRICS_TLS_CERT": "beside.pem",
    "BILSTM_METRICS_TLS_KEY": "beside.key",
}


def beside(name: str) -> dict[str, str]:
    """What is set beside this setting."""
    return {} if name == "insecure" else BESIDE  # which must not be beside TLS


def other_value(name: str) -> Any:
    """A value for the setting that is not its default."""
    default = Settings.model_fields[name].default
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(default, int):
        return default - 1 if default else 1
    return default + 0.5


def written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(f"{name}={getattr(of, 'name', of)}" for name, of in value)
    return str(value)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_by_environment(name: str, load: Load) -> None:
    """Every setting can be made by its environment variable."""
    value = other_value(name)
    assert value != Settings.model_fields[name].default
    loaded = load(**(beside(name) | {f"BILSTM_{name.upper()}": written(value)}))
    assert getattr(loaded, name) == value


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_by_flag(name: str, load: Load) -> None:
    """Every setting can be made by its flag, which wins over the environment."""
    value = other_value(name)
    default = Settings.model_fields[name].default
    outside = "b=y,c=z" if name == "model" else written(default)
    flag = f"--{name.replace('_', '-')}"
    loaded = load(flag, written(value), **(beside(name) | {f"BILSTM_{name.upper()}": outside}))
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
        ("BILSTM_CA", "ca.pem"),
        ("BILSTM_TOKEN", "s3cret"),
    ],
)
def test_variables_of_others(name: str, value: str) -> None:
    """What Kubernetes puts into a pod's environment for a Service of that name is let pass, and so
    is what a client in the same container is told by."""
    check_environment({name: value})


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
