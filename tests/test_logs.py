"""What is written about an error: its cause, in one JSON line, and nothing of the request."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from bilstm_server.logs import configure_logs


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
    log_a_failure("json")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["error_id"], event["level"]) == ("internal error", "e1", "error")
    (raised,) = event["exception"]
    assert raised["exc_value"] == "the cause"
    assert [frame["name"] for frame in raised["frames"]][-1] == "fail"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_local_variables_are_not_logged(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log_a_failure(log_format)
    written = capsys.readouterr().err
    assert "the cause" in written
    assert "the-payload" not in written


def test_auto_is_json_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    log_a_failure("auto")
    assert json.loads(capsys.readouterr().err)["error_id"] == "e1"
