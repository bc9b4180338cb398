"""What is written about an error: its cause, in one JSON line, and nothing of the request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.errors import ModelError, StartError
from bilstm_server.lifecycle import serve
from bilstm_server.logs import configure_logs
from bilstm_server.process.threads import available_processors
from bilstm_server.settings import Settings
from tests.support.engines import gated_server
from tests.support.servers import settings

HERE = Path(__file__)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    configuration = structlog.get_config()
    yield
    structlog.configure(**configuration)


def log_a_failure(log_format: str) -> None:
    def fail(payload: str) -> None:
        raise ValueError("the cause")

    configure_logs(log_format)
    try:
        fail("-".join(("the", "payload")))  # not to be seen in the source line either
    except ValueError as error:
        structlog.get_logger().error("internal error", error_id="e1", exc_info=error)


def test_json_is_one_line_with_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON an error is one line, with its cause and the frames of its traceback."""
    log_a_failure("json")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["error_id"], event["level"]) == ("internal error", "e1", "error")
    (raised,) = event["exception"]
    assert raised["exc_value"] == "the cause"
    assert [frame["name"] for frame in raised["frames"]][-1] == "fail"


def test_the_event_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON line begins with what happened, then how bad that is, then when."""
    configure_logs("json")
    structlog.get_logger().info("ready", alpha=1)
    keys = list(json.loads(capsys.readouterr().err))
    assert keys == ["event", "level", "timestamp", "alpha"]


async def test_settings_are_logged_once() -> None:
    """A server's first event has every setting as it is in effect, and a warning follows where more
    threads than processors are to compute."""
    processors = available_processors()
    with structlog.testing.capture_logs() as events, pytest.raises(ModelError):
        await serve(settings(model=[("none", Path("none"))], threads=processors + 1))
    first, second = events[:2]
    assert first["event"] == "settings"
    assert set(Settings.model_fields) <= set(first)
    assert first["max_batch_tokens"] == Settings.model_fields["max_batch_tokens"].default
    assert (second["log_level"], second["threads"]) == ("warning", processors + 1)
    assert [event["event"] for event in events].count("settings") == 1


async def test_rules_of_callers_are_logged_as_they_are_set() -> None:
    """What the settings say of single callers is in the log in the words of the flags."""
    given = settings(
        model=[("none", Path("none"))], caller_share="bulk=0.5", caller_priority="search=high"
    )
    with structlog.testing.capture_logs() as events, pytest.raises(ModelError):
        await serve(given)
    assert (events[0]["caller_share"], events[0]["caller_priority"]) == (
        ["bulk=0.5"],
        ["search=high"],
    )


@pytest.mark.parametrize("threads", [0, 1])
async def test_no_warning_for_few_threads(threads: int) -> None:
    """As many threads as processors, or fewer, are no mistake."""
    with structlog.testing.capture_logs() as events, pytest.raises(ModelError):
        await serve(settings(model=[("none", Path("none"))], threads=threads))
    assert [event for event in events if event["log_level"] == "warning"] == []


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({"metrics_host": "0.0.0.0"}, True),
        ({"metrics_host": "0.0.0.0", "metrics_tls_cert": HERE, "metrics_tls_key": HERE}, True),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"metrics_host": "0.0.0.0", "metrics_token_file": HERE}, False),
        ({}, False),
    ],
)
async def test_open_metrics_are_warned_of(values: dict[str, object], warned: bool) -> None:
    """Metrics that other machines can read are told of, unless somebody has said that they may."""
    with structlog.testing.capture_logs() as events, pytest.raises(StartError):
        await serve(settings(model=[("none", Path("none"))], **values))
    assert ("metrics are open" in [event["event"] for event in events]) == warned


CLIENT_PORT = {"tls_client_ca": "none", "tls_client_port": 0}


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "127.0.0.1"}, False),
        ({"host": "unix:/tmp/socket"}, False),
        ({"host": "0.0.0.0", "tokens_file": "none"}, False),
        ({"host": "0.0.0.0", "tls_client_ca": "none"}, False),
        ({"host": "0.0.0.0", **CLIENT_PORT}, True),
        ({"host": "0.0.0.0", **CLIENT_PORT, "tokens_file": "none"}, False),
    ],
)
async def test_open_calls_are_warned_of(values: dict[str, object], warned: bool) -> None:
    """A server that lets everybody on other machines call says so."""
    with structlog.testing.capture_logs() as events, pytest.raises(StartError):
        await serve(settings(tls_cert="none", tls_key="none", **values))
    assert ("calls are open" in [event["event"] for event in events]) == warned


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_local_variables_are_not_logged(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a request holds in local variables is in no log, whatever its format."""
    log_a_failure(log_format)
    written = capsys.readouterr().err
    assert "the cause" in written
    assert "the-payload" not in written


def test_auto_is_json_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard error is no terminal, `auto` is JSON."""
    log_a_failure("auto")
    assert json.loads(capsys.readouterr().err)["error_id"] == "e1"


@pytest.mark.parametrize(
    ("metadata", "ids"),
    [
        ((("x-request-id", "order 66/a"),), {"request_id": "order 66/a"}),
        ((("x-request-id", "r" * 128),), {"request_id": "r" * 128}),
        ((("x-request-id", "r" * 129),), {}),
        ((("x-request-id", ""),), {}),
        ((), {}),
    ],
)
async def test_the_callers_name_for_its_request(
    metadata: tuple[tuple[str, str], ...], ids: dict[str, str], model_folder: Path
) -> None:
    """An internal error is logged under the id that the caller is told, beside the caller's own
    `x-request-id` if that is one."""

    def fail(staged: object) -> None:
        raise RuntimeError("the cause")

    async with (
        gated_server(settings(model=[("small", model_folder)])) as (app, gated),
        grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel,
    ):
        gated.engines[model_folder.name].fault = fail
        gated.open()
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        request = pb.EncodeRequest(sequences=[tensors.encode(np.ones((3, 5), np.float32))])
        with (
            structlog.testing.capture_logs() as events,
            pytest.raises(grpc.aio.AioRpcError) as told,
        ):
            await stub.Encode(request, metadata=metadata)
    (event,) = events
    assert {key: value for key, value in event.items() if key.endswith("_id")} == {
        "error_id": event["error_id"],
        **ids,
    }
    assert event["caller"] == "127.0.0.1"
    assert event["error_id"] in str(told.value.details())
