"""The harness that attacks servers: its table, its exit code, and that its prober is honest.

What the attacks find is not here: `make faults`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.faults import __main__ as runner
from benchmarks.faults.__main__ import TRIALS, main
from benchmarks.faults.findings import Finding, row
from benchmarks.faults.kinds import ANY, ENCODE, LARGE, STREAM, honest
from benchmarks.faults.prober import ENCODE as ENCODE_PATH
from benchmarks.faults.prober import HEALTH, probing
from benchmarks.faults.wire import PatientConnection, RawConnection, begin, block_of
from bilstm_server.settings import Settings

HELD = Finding("a", "nothing", "wait", 3.0, "ms", most=50.0)
MISSED = Finding("b", "something", "share", 0.5, least=0.85)
TOLD = Finding("b", "something", "calls", 7.0)


def test_a_finding_is_held_up_to_its_limit() -> None:
    assert HELD.held
    assert HELD.verdict == "held"
    assert not MISSED.held
    assert MISSED.verdict == "MISSED"
    assert TOLD.held
    assert not TOLD.verdict
    assert Finding("a", "", "wait", 50.0, most=50.0).held


def test_only_a_near_miss_may_be_the_machines_mood() -> None:
    figures = {3.0: False, 51.0: True, 200.0: True, 201.0: False}
    for figure, nearly in figures.items():
        assert Finding("a", "nothing", "wait", figure, "ms", most=50.0).nearly == nearly


def test_what_was_not_measured_is_missed() -> None:
    assert Finding("a", "nothing", "wait", float("nan"), "ms", 50.0).verdict == "MISSED"


def test_the_table_says_what_was_sent_measured_and_required() -> None:
    written = row(HELD)
    for word in ("a", "nothing", "wait", "3.00 ms", "at most 50 ms", "held"):
        assert word in written
    assert "at least 0.85" in row(MISSED)


@pytest.mark.parametrize(
    ("findings", "flags", "code"),
    [([HELD, TOLD], ["--check"], 0), ([HELD, MISSED], ["--check"], 1), ([MISSED], [], 0)],
)
def test_only_a_check_fails_for_a_limit_that_is_missed(
    findings: list[Finding], flags: list[str], code: int
) -> None:
    assert main({"some": lambda: iter(findings)}, flags) == code


def test_one_trial_alone_and_its_findings_as_json(tmp_path: Path) -> None:
    def never() -> Iterator[Finding]:
        raise AssertionError

    file = tmp_path / "findings.json"
    flags = ["--only", "some", "--json", str(file)]
    assert main({"other": never, "some": lambda: iter([HELD, TOLD])}, flags) == 0
    held, told = json.loads(file.read_text())
    assert (held["figure"], held["most"], held["held"]) == (3.0, 50.0, True)
    assert "most" not in told


def test_a_trial_that_fails_is_missed_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> Iterator[Finding]:
        yield HELD
        raise RuntimeError("no server")

    assert main({"broken": broken, "some": lambda: iter([TOLD])}, ["--check"]) == 1
    printed = capsys.readouterr().out
    assert "no server" in printed
    assert "calls" in printed


def test_a_trial_that_hangs_is_missed_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hanging() -> Iterator[Finding]:
        yield HELD
        threading.Event().wait()

    monkeypatch.setattr(runner, "_MOST_SECONDS", 0.1)
    assert main({"hanging": hanging, "some": lambda: iter([TOLD])}, ["--check"]) == 1
    printed = capsys.readouterr().out
    assert "not over within 0.1 s" in printed
    assert "calls" in printed


def test_every_fault_has_a_name_of_its_own() -> None:
    names = {"messages", "replies", "requests", "connections", "overload", "hang", "restart"}
    assert set(TRIALS) >= names


def test_no_kind_of_message_is_refused_for_its_size() -> None:
    limit = Settings.model_fields["max_message_bytes"].default
    for make in (*ANY.values(), *ENCODE.values(), *STREAM.values()):
        assert len(make()) <= limit
    assert len(honest(LARGE)) > LARGE / 2


@contextmanager
def answering(answer: Callable[[str], None]) -> Iterator[str]:
    """A server whose every method does that, and then answers with nothing. Its address."""

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            def call(request: bytes, context: grpc.ServicerContext) -> bytes:
                answer(details.method)
                return b""

            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_the_prober_tells_a_wait_that_is_over_and_one_that_is_not() -> None:
    slow, go_on, entered = threading.Event(), threading.Event(), threading.Event()

    def answer(path: str) -> None:
        if path == HEALTH and slow.is_set():
            entered.set()
            go_on.wait(60)

    with answering(answer) as target, probing(target) as prober:
        prober.waits()
        slow.set()
        assert entered.wait(60)
        threading.Event().wait(0.3)  # what is to be measured
        unanswered = prober.waits()
        assert unanswered[HEALTH].longest >= 300
        assert unanswered[ENCODE_PATH].answered > 0  # it does not wait for the other
        threading.Event().wait(0.3)
        slow.clear()
        go_on.set()
        answered = prober.waits()
        while not answered[HEALTH].answered:
            again = prober.waits()
            answered = {HEALTH: max(answered[HEALTH], again[HEALTH], key=lambda of: of.answered)}
        assert max(answered[HEALTH].longest, unanswered[HEALTH].longest) >= 300


def test_the_prober_tells_calls_that_fail() -> None:
    failing = threading.Event()

    def answer(path: str) -> None:
        if path == ENCODE_PATH and failing.is_set():
            raise RuntimeError("as it should")

    with answering(answer) as target, probing(target) as prober:
        failing.set()
        waits = prober.waits()
        while not waits[ENCODE_PATH].failed:
            waits = prober.waits()
        assert not waits[HEALTH].failed


def test_a_patient_call_stops_where_it_is_told_to_and_then_goes_on() -> None:
    called = threading.Event()
    with answering(lambda _: called.set()) as target, PatientConnection(target) as connection:
        message = bytes(1_000_000)  # of which the windows take a part at a time
        assert connection.call("/a/b", message, missing=1) == len(message) + 4
        assert not called.is_set()
        connection.send(1, bytes(1), end=True)
        while "0" not in connection.statuses.values():
            assert not connection.ended
            connection.pump(60)
        assert called.is_set()


def test_a_raw_connection_tells_that_its_peer_has_ended_it() -> None:
    with answering(lambda _: None) as target, RawConnection(target, b"") as connection:
        connection.send(b"GET / HTTP/1.1\r\n\r\n" * 1_000)
        while connection.read(60):
            pass
        assert connection.ended
    block = block_of("/a/b", ("x", "y"))
    assert begin(1, block)[9:] == block
