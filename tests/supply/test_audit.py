"""Known vulnerabilities: `python -m supply.audit`, asking a small OSV on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from supply.pins import ROOT, SERVER, read_pins, torch_file

VULNERABLE = {
    "id": "GHSA-xxxx-yyyy-zzzz",
    "summary": "numbers can be read",
    "details": "numbers can be read",
    "published": "2026-01-01T00:00:00Z",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "numpy", "ecosystem": "PyPI"},
            "ranges": [
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]},
            ],
        }
    ],
}


class Database(ThreadingHTTPServer):
    """OSV's API, which knows of what `known` has, and remembers who was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.known: dict[str, dict[str, Any]] = {}
        self.asked: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/query"


class Answering(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked.get("package", {}).get("name")
        if name is None:  # as OSV does
            self.send_error(400)
            return
        self.server.asked.add(name)
        known = self.server.known.get(name)
        answer = json.dumps({"vulns": [known]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def database() -> Iterator[Database]:
    with Database() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supply.audit", "--database", url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_package_is_asked_for(database: Database) -> None:
    """All that the images have; where nothing is known of them, the audit passes."""
    done = audit(database.url)
    assert done.returncode == 0, done.stderr
    assert database.asked == {pin.name for pin in read_pins(SERVER) + read_pins(torch_file("cuda"))}


def test_a_known_vulnerability_fails(database: Database) -> None:
    """And is named, with its package."""
    database.known["numpy"] = VULNERABLE
    done = audit(database.url)
    assert done.returncode == 1
    assert "numpy" in done.stdout
    assert "GHSA-xxxx-yyyy-zzzz" in done.stdout


def test_without_the_database() -> None:
    """It is skipped, with a line that says so."""
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        done = audit(f"http://127.0.0.1:{taken.getsockname()[1]}/v1/query")
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert line.startswith("audit: skipped, http://127.0.0.1:")
    assert done.stderr == ""
