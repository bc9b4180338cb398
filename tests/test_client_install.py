"""The client alone: it needs neither torch nor anything else of the server."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from clients import HANGS_AFTER_SECONDS
from clients import client as client
from clients import connect as connect
from conftest import RunningServer

ROOT = Path(__file__).resolve().parents[1]


# Modules of the extra [server]; the client must do without any of them.
SERVER_ONLY = (
    "torch",
    "safetensors",
    "pydantic",
    "pydantic_settings",
    "prometheus_client",
    "structlog",
    "grpc_reflection",
    "bilstm_server",
)

WITHOUT_SERVER = f"""
import sys
blocked = {SERVER_ONLY!r}
sys.modules.update(dict.fromkeys(blocked))  # None: importing it fails
import asyncio
import bilstm_client, bilstm_client.cli.main

async def encode(target):
    async with bilstm_client.AsyncClient(target) as client:
        return await client.encode([[0.5] * 5])

target = sys.argv[1]
with bilstm_client.Client(target) as client:
    states = client.encode([[0.5] * 5]).states
assert states.shape == (1, 12)
assert (asyncio.run(encode(target)).states == states).all()
loaded = [name for name, module in sys.modules.items() if module is not None]
print([name for name in loaded if name.split(".")[0] in blocked])
"""


def test_client_needs_no_torch(server: RunningServer) -> None:
    """Both clients and the shell command import nothing that only the server needs."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_SERVER, server.target],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_SECONDS,
    )
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr


def test_base_install_has_no_torch() -> None:
    """Torch, and all that only the server needs, are in the extra [server] alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    base = " ".join(project["dependencies"])
    server = " ".join(project["optional-dependencies"]["server"])
    for module in ("torch", "safetensors", "pydantic-settings", "prometheus-client", "structlog"):
        assert module in server
        assert module not in base
