"""Names of callers in the settings: which of them nobody can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bilstm_server.app import App
from bilstm_server.metrics import Metrics
from bilstm_server.rpc.entrance import Entrance
from bilstm_server.security.reloading import Reloading
from tests.rpc.security.callers import running, sample, write_tokens
from tests.rpc.security.conftest import Configure
from tests.security.authority import OTHER_TOKEN, TOKEN, Authority
from tests.support.servers import settings
from tests.support.waiting import until

SHARES: dict[str, Any] = {"caller_share": "search=2,bulk=0.5", "caller_priority": "search=high"}
NAMES = {("--caller-share", "search"), ("--caller-share", "bulk"), ("--caller-priority", "search")}
NOBODY = "no such caller"


def unknown(logged: Any) -> set[tuple[str, str]]:
    """The settings and the names that the log warns of."""
    lines = [line for line in logged if line["event"] == NOBODY]
    assert {line["log_level"] for line in lines} <= {"warning"}
    return {(line["setting"], name) for line in lines for name in line["names"]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (SHARES, NAMES),
        ({**SHARES, "caller_header": "x-caller"}, set()),
        ({"caller_share": "192.0.2.7=2,2001:db8::/64=2,unix=2"}, set()),
        ({"caller_share": "192.0.2.0/24=2,unix=2"}, {("--caller-share", "192.0.2.0/24")}),
        ({}, set()),
    ],
)
def test_without_tokens(values: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    """A caller without a token has its address for a name, or what a trusted header says: a name
    in the settings that can't be one is told of at the start."""
    with capture_logs() as logged:
        Entrance(settings(**values), Metrics(), Reloading())
    assert unknown(logged) == expected


def test_certificates_may_name_anybody(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """Where a certificate alone lets callers in, any name may come; where they need a token beside
    it, the token names them."""
    tokens = write_tokens(tmp_path / "tokens", f"search: {TOKEN}")
    for values, expected in (
        ({}, set()),
        ({"tokens_file": tokens}, {("--caller-share", "bulk")}),
        ({"tokens_file": tokens, "tls_client_port": 0}, set()),
    ):
        with capture_logs() as logged:
            configured = with_tls(tls_client_ca=authority.path, **SHARES, **values)
            Entrance(configured, Metrics(), Reloading())
        assert unknown(logged) == expected


async def test_names_that_no_token_has(configure: Configure, tmp_path: Path) -> None:
    """A name that no token has is told of at the start, and whenever the file is read anew."""
    path = write_tokens(tmp_path / "tokens", f"search: {TOKEN}")
    configured = configure(tokens_file=path, caller_header="x-caller", **SHARES)
    with capture_logs() as logged:
        async with running(configured) as app:

            async def change(*lines: str) -> None:
                before = accepted(app)
                write_tokens(path, *lines)
                app.reload()
                await until(lambda: accepted(app) > before)

            assert unknown(logged) == {("--caller-share", "bulk")}
            logged.clear()
            await change(f"search: {TOKEN}", f"bulk: {OTHER_TOKEN}")  # no name is missing
            await change(f"bulk: {OTHER_TOKEN}")
            missing = {("--caller-share", "search"), ("--caller-priority", "search")}
            await until(lambda: unknown(logged) == missing)


def accepted(app: App) -> float:
    return sample(app, "bilstm_file_reloads_total", setting="tokens_file", outcome="accepted")
