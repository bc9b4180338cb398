"""Prometheus' rules and Grafana's dashboard: what they name exists, and a real Prometheus that
scrapes a real server under traffic has data for all of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import yaml

from bilstm_client import Client, InvalidInput, Overloaded
from bilstm_server.metrics import Metrics
from bilstm_server.testing import server_process
from tests.project import monitoring
from tests.project.monitoring import DEPLOY, PROMETHEUS, Expression, Json
from tests.security.authority import TOKEN, Authority
from tests.support.waiting import HANGS_AFTER_SECONDS

DOCS = DEPLOY.parent / "docs"
NOT_OF_THE_SERVER = {"up", "ALERTS"}  # Prometheus makes them
ALERTS = {rule["alert"]: rule for rule in monitoring.rules("alert")}
RECORDED = {rule["record"]: rule for rule in monitoring.rules("record")}
RULES = RECORDED | ALERTS
PANEL_EXPRESSIONS = list(monitoring.dashboard_expressions())
PANELS = {panel["title"]: panel for panel in monitoring.panels()}
WIDTH = 12  # of the shipped model's input
TOKENS = 64  # in a full batch, and in a full queue; so many in one sequence are long

# -- what the files say -----------------------------------------------------------------------


def promtool(*arguments: str | Path, stdin: bytes = b"") -> None:
    """Run it, and fail with its words if it does."""
    if not (tool := shutil.which("promtool")):
        pytest.skip("promtool, of Prometheus, is not installed")
    done = subprocess.run([tool, *arguments], input=stdin, capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def exported() -> set[str]:
    """The names of all series of a server."""
    names = set(NOT_OF_THE_SERVER)
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return names


def unit_tests() -> list[Json]:
    """What promtool's tests expect of alerts."""
    files = [monitoring.load_yaml(path) for path in sorted(PROMETHEUS.glob("tests/*.yml"))]
    tests = [test for file in files for test in file["tests"]]
    return [check for test in tests for check in test.get("alert_rule_test", ())]


def test_config_is_valid() -> None:
    """Prometheus accepts its configuration, with the rules that lie beside it."""
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_rules_are_valid() -> None:
    """Prometheus accepts the rules, and no two are alike."""
    promtool("check", "rules", "--lint-fatal", *sorted(PROMETHEUS.glob("rules/*.yml")))


def test_rules_do_what_they_say() -> None:
    """The rules' own unit tests pass."""
    promtool("test", "rules", *sorted(PROMETHEUS.glob("tests/*.yml")))


@pytest.mark.parametrize("name", RULES)
def test_rules_read_metrics_that_exist(name: str) -> None:
    """A rule reads what the server exports or another rule records."""
    assert Expression(name, RULES[name]["expr"]).metrics <= exported() | RECORDED.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_are_tested(alert: str) -> None:
    """Each alert is seen to fire, and not to fire."""
    fires = {bool(check["exp_alerts"]) for check in unit_tests() if check["alertname"] == alert}
    assert fires == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_say_what_to_do(alert: str) -> None:
    """Each alert has a severity, a summary, a remedy of one line, and a section in the docs."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "remedy"}
    assert "\n" not in rule["annotations"]["remedy"].strip()
    sections = (DOCS / "alerts.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {alert}$", sections, re.MULTILINE)


def test_metrics_are_explained() -> None:
    """The docs say what each metric of the server's own tells, beside the table made from code."""
    parts = re.compile(r"_(bucket|sum|count)$")
    ours = {parts.sub("", n) for n in exported() if n.startswith(("bilstm_", "grpc_"))}
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    _, _, explained = page.partition("<!-- /metrics -->")
    assert ours <= set(re.findall(r"`(\w+)`", explained))


@pytest.mark.parametrize("title", PANELS)
def test_panels_are_complete(title: str) -> None:
    """Each panel has a title, a unit, a description, and asks the provisioned data source."""
    panel = PANELS[title]
    source = monitoring.load_yaml(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")
    asked = {"type": "prometheus", "uid": source["datasources"][0]["uid"]}
    assert title
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert [target["datasource"] for target in panel["targets"]] == [asked] * len(panel["targets"])


@pytest.mark.parametrize("expression", PANEL_EXPRESSIONS, ids=str)
def test_panels_read_metrics_that_exist(expression: Expression) -> None:
    """A panel reads what the server exports or a rule records, and knows its variables."""
    assert expression.metrics
    assert expression.metrics <= exported() | RECORDED.keys()
    assert "$" not in expression.text


def test_panels_do_not_overlap() -> None:
    """The panels fill a grid of 24 columns, each place at most once."""
    places = [panel["gridPos"] for panel in monitoring.dashboard()["panels"]]
    cells = [
        (x, y)
        for p in places
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))
    assert len(cells) == 24 * (1 + max(y for _, y in cells))


def test_grafana_finds_what_compose_mounts() -> None:
    """Compose mounts the dashboards where the provider looks, and every folder of provisioning."""
    volumes = monitoring.load_yaml(DEPLOY.parent / "docker-compose.yml")["services"]["grafana"][
        "volumes"
    ]
    mounted = dict(volume.split(":")[:2] for volume in volumes)
    provider = monitoring.load_yaml(DEPLOY / "grafana/provisioning/dashboards/bilstm.yml")
    path = provider["providers"][0]["options"]["path"]
    assert mounted["./deploy/grafana/dashboards"] == path
    for folder in (DEPLOY / "grafana/provisioning").iterdir():
        inside = f"/etc/grafana/provisioning/{folder.name}"
        assert mounted[f"./deploy/grafana/provisioning/{folder.name}"] == inside


# -- what a real Prometheus says --------------------------------------------------------------


def until(is_so: Callable[[], object], otherwise: Callable[[], object]) -> None:
    """Wait for what another process does; fail with what `otherwise` says."""
    ends_at = time.monotonic() + HANGS_AFTER_SECONDS
    while not is_so():
        assert time.monotonic() < ends_at, otherwise()
        time.sleep(monitoring.POLL_SECONDS)


def write_config(folder: Path, target: str, secured: bool) -> Path:
    """The configuration as it ships, but for the address of the server and the intervals. With the
    lines that it has for a server with TLS and a token, if it is `secured`."""
    shutil.copytree(PROMETHEUS / "rules", folder / "rules")
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    if secured:
        text, lines = re.subn(r"# ((scheme|tls_config|authorization): )", r"\1", text)
        assert lines == 3
    config = yaml.safe_load(text)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    targets = {"bilstm": [target], "prometheus": []}
    for job in config["scrape_configs"]:
        job["scrape_interval"] = "1s"
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@contextmanager
def prometheus(folder: Path, target: str, secured: bool = False) -> Iterator[str]:
    """A Prometheus on a free port of loopback that scrapes `target`: its URL, once it is ready."""
    if not (program := shutil.which("prometheus")):
        pytest.skip("Prometheus is not installed")
    flags = [
        f"--config.file={write_config(folder, target, secured)}",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = folder / "log"
    with log.open("wb") as sink:
        command = [program, *flags, f"--storage.tsdb.path={folder / 'data'}"]
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        until(lambda: process.poll() is not None or "is ready" in log.read_text(), log.read_text)
        listening = re.search(r'"Listening on".* address=(127\.0\.0\.1:\d+)', log.read_text())
        assert listening, log.read_text()
        yield f"http://{listening[1]}"
    finally:
        process.kill()
        process.wait()


def send_traffic(client: Client) -> None:
    """Requests that are encoded, one that is wrong, and more at once than the queue holds, each of
    one long sequence."""
    client.encode_batch([np.zeros((steps, WIDTH), np.float32) for steps in (3, 1, 4, 1, 5)])
    with pytest.raises(InvalidInput):
        client.encode(np.zeros((3, WIDTH + 1), np.float32))

    def attempt(x: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
        with suppress(Overloaded):
            client.encode(x)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(attempt, [np.zeros((TOKENS, WIDTH), np.float32)] * 16))


def test_everything_returns_data(tmp_path: Path) -> None:
    """A Prometheus that scrapes a server under traffic, with TLS and tokens, has data for every
    expression of the dashboard and every recording rule, and none is missing silently."""
    flags = [f"--max-{what}-tokens={TOKENS}" for what in ("sequence", "batch", "queue")]
    flags.append(f"--max-whole-tokens={TOKENS // 2}")
    authority = Authority(tmp_path)
    files = authority.issue("127.0.0.1")
    flags += [f"--tls-cert={files.certificate}", f"--tls-key={files.key}"]
    (tmp_path / "tokens").write_text(f"search: {TOKEN}")
    flags.append(f"--tokens-file={tmp_path / 'tokens'}")
    refused = [
        Expression("refusals", f'job_model_reason:bilstm_dropped:rate5m{{reason="{why}"}} > 0')
        for why in ("invalid", "overloaded")
    ]
    with (
        server_process(*flags) as server,
        prometheus(tmp_path, server.metrics_url.split("/")[2]) as url,
        Client(server.target, tls=str(authority.path), token=TOKEN) as client,
    ):
        assert monitoring.without_data(url, long=True, tls=True), "before any traffic"

        def missing() -> list[Expression]:
            send_traffic(client)
            return [e for e in refused if not monitoring.query(url, e.text)] + (
                monitoring.without_data(url, long=True, tls=True)
            )

        until(lambda: not missing(), missing)
        command = [sys.executable, monitoring.__file__, url, "--long", "--tls"]
        assert subprocess.run(command, capture_output=True).returncode == 0
        with urlopen(server.metrics_url, timeout=HANGS_AFTER_SECONDS) as scrape:
            promtool("check", "metrics", stdin=scrape.read())


def test_scraping_over_tls(tmp_path: Path) -> None:
    """A Prometheus with the lines that its configuration has for that scrapes a server whose
    metrics have TLS and a token."""
    authority = Authority(tmp_path)
    files = authority.issue("server")
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    token = tmp_path / "metrics-token"
    token.write_text(TOKEN)
    flags = [f"--metrics-tls-cert={files.certificate}", f"--metrics-tls-key={files.key}"]
    with server_process(*flags, f"--metrics-token-file={token}") as server:
        address = server.metrics_url.split("/")[2]
        with prometheus(tmp_path, address, secured=True) as url:
            until(lambda: monitoring.query(url, "bilstm_model_info"), lambda: "nothing is scraped")
