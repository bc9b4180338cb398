"""docs/security.md: what it names is there, and containers are as it says."""

from __future__ import annotations

import ast
import re

import pytest

from .monitoring import load_yaml
from .pages import ROOT

PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
SERVER = ROOT / "server/bilstm_server"
SERVICES = load_yaml(ROOT / "docker-compose.yml")["services"]


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def rows(text: str) -> list[list[str]]:
    """The rows of a section's table, but for its head, cell by cell."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def functions_of(file: str) -> set[str]:
    path = ROOT / "tests" / file
    tree = ast.parse(path.read_text(encoding="utf-8") if path.exists() else "")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in ast.walk(tree) if isinstance(each, functions)}


def test_every_threat_has_its_test() -> None:
    """Each row of the threats names tests, and each of them is there."""
    threats = [row for row in rows(section("Threats")) if not row[0].startswith("**")]
    assert len(threats) >= 20
    for threat, stands, held in threats:
        assert stands, threat
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", held)
        assert named, threat
        assert len(named) == held.count("`") / 2, f"{threat}: what is not FILE::TEST?"
        missing = [f"{file}::{test}" for file, test in named if test not in functions_of(file)]
        assert not missing, threat


def test_files_of_checks() -> None:
    """Each row of what is checked names files, and each of them is there."""
    checks = rows(section("What is checked where"))
    assert len(checks) >= 10
    for what, where in checks:
        named = re.findall(r"`([\w/]+\.py)`", where)
        assert named, what
        missing = [n for n in named if not (SERVER / n).exists() and not (ROOT / n).exists()]
        assert not missing, what


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_no_rights(name: str) -> None:
    """No container has capabilities or can get new ones; the server's runs as a user of its own."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) == (name != "grafana")
    stages = (ROOT / "Dockerfile").read_text("utf-8").split("\nFROM ")
    assert re.findall(r"^USER (\S+)", stages[-1], re.MULTILINE) == ["10001"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback(name: str) -> None:
    """Unless a variable says otherwise."""
    for port in SERVICES[name]["ports"]:
        assert re.match(r"\$\{(MONITORING_)?PUBLISH:-127\.0\.0\.1\}:", port), port
