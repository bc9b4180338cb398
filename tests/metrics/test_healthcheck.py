"""What the image's HEALTHCHECK says of a server, whichever settings it has."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bilstm_server.app import App
from bilstm_server.probes import healthcheck
from tests.security.authority import TOKEN, Authority
from tests.support.servers import settings


@asynccontextmanager
async def served(folder: Path, **values: object) -> AsyncIterator[tuple[App, dict[str, str]]]:
    """A server that is not ready yet, and the variables of its settings."""
    async with App(settings(model=[("small", folder)], **values)) as app:
        variables = {f"BILSTM_{name.upper()}": str(value) for name, value in values.items()}
        yield app, variables | {"BILSTM_METRICS_PORT": str(app.metrics_port)}


async def ask(variables: dict[str, str]) -> tuple[int, str]:
    """The exit code and the words of the file that the image runs, as it runs it."""
    command = [sys.executable, "-I", "-S", healthcheck.__file__]
    done = await asyncio.to_thread(
        subprocess.run, command, env=variables, capture_output=True, text=True
    )
    assert not done.stderr
    return done.returncode, done.stdout.strip()


async def test_healthy_where_it_is_ready(model_folder: Path) -> None:
    """It fails while models load, and when nobody answers."""
    async with served(model_folder) as (app, variables):
        assert await ask(variables) == (1, "loading")
        await app.load()
        assert await ask(variables) == (0, "serving")
    assert (await ask(variables))[0] == 1


@pytest.mark.parametrize("secret", ["TLS", "token", "client certificate"])
async def test_of_a_server_that_asks_for_more(
    model_folder: Path, tmp_path: Path, secret: str
) -> None:
    """TLS of both ports, tokens, and client certificates do not keep it out."""
    authority = Authority(tmp_path)
    files = authority.issue("a.name.of.its.own")
    (tmp_path / "tokens").write_text(f"name: {TOKEN}\n")
    (tmp_path / "token").write_text(TOKEN)
    grpc = {"tls_cert": files.certificate, "tls_key": files.key}
    values: dict[str, dict[str, object]] = {
        "TLS": {**grpc, "metrics_tls_cert": files.certificate, "metrics_tls_key": files.key},
        "token": {
            "tokens_file": tmp_path / "tokens",
            "metrics_token_file": tmp_path / "token",
            "health": "callers",
        },
        "client certificate": {**grpc, "tls_client_ca": authority.path},
    }
    async with served(model_folder, **values[secret]) as (app, variables):
        await app.load()
        assert await ask(variables) == (0, "serving")


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, ("127.0.0.1", 9464)),
        ({"BILSTM_HOST": "0.0.0.0", "BILSTM_METRICS_PORT": ""}, ("127.0.0.1", 9464)),
        ({"BILSTM_HOST": "unix:/run/socket"}, ("127.0.0.1", 9464)),
        (
            {"BILSTM_HOST": "192.0.2.1", "BILSTM_METRICS_HOST": "192.0.2.2"},
            ("192.0.2.2", 9464),
        ),
    ],
)
def test_where_it_asks(variables: dict[str, str], address: tuple[str, int]) -> None:
    """It asks where the server listens, or on loopback where that is everywhere."""
    connection = healthcheck.connect(variables)
    assert (connection.host, connection.port) == address
