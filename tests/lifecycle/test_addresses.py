"""Where a server listens: names, both kinds of IP addresses and unix sockets; and which flag is
blamed where it can't.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from pydantic import ValidationError

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.errors import ListenError, StartError
from bilstm_server.settings import Settings
from tests.support.servers import settings

Configure = Callable[..., Settings]


@pytest.fixture
def configure(model_folder: Path) -> Configure:
    return lambda **values: settings(model=[("small", model_folder)], **values)


async def models_at(target: str) -> list[str]:
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        return [model.name for model in (await stub.ListModels(pb.ListModelsRequest())).models]


def probe(url: str) -> int:
    with urlopen(f"{url}/readyz") as answer:
        return int(answer.status)


async def refusal(configured: Settings) -> str:
    with pytest.raises(ListenError) as refused:
        async with App(configured):
            pass
    return str(refused.value)


@pytest.mark.parametrize("host", ["::1", "[::1]", "localhost"])
async def test_names_and_addresses(host: str, configure: Configure) -> None:
    """IPv6 is taken with brackets and without, for gRPC and for metrics."""
    async with App(configure(host=host)) as app:
        await app.load()
        name = "localhost" if host == "localhost" else "[::1]"
        assert await models_at(f"{name}:{app.port}") == ["small"]
        assert await asyncio.to_thread(probe, f"http://{name}:{app.metrics_port}") == 200


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_a_unix_socket(form: str, configure: Configure, tmp_path: Path) -> None:
    """gRPC can be served on a unix socket; metrics and probes are on loopback then. The socket is
    gone in the end, and one that a dead server left is replaced."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with App(configure(host=form.format(path))) as app:
        await app.load()
        assert await models_at(f"unix:{path}") == ["small"]
        assert app.port == 0
        assert await asyncio.to_thread(probe, f"http://127.0.0.1:{app.metrics_port}") == 200
    assert not path.exists()


async def test_an_abstract_socket(configure: Configure, tmp_path: Path) -> None:
    """A unix socket may have a name and no file."""
    host = f"unix-abstract:{tmp_path}"
    async with App(configure(host=host)) as app:
        await app.load()
        assert await models_at(host) == ["small"]
        assert f"{host} (--host): Address already in use" in await refusal(configure(host=host))


async def test_a_unix_socket_in_use(configure: Configure, tmp_path: Path) -> None:
    """A socket that another server has, and a file, are left as they are."""
    path = tmp_path / "socket"
    async with App(configure(host=f"unix:{path}")) as app:
        await app.load()
        assert f"unix:{path} (--host)" in await refusal(configure(host=f"unix:{path}"))
        assert await models_at(f"unix:{path}") == ["small"]
    path.write_text("mine")
    assert f"unix:{path} (--host)" in await refusal(configure(host=f"unix:{path}"))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"host": "no.such.host.invalid"}, "--host"),
        ({"host": "localhost:50051"}, "--host"),
        ({"host": "192.0.2.1", "insecure": True}, "--host"),
        ({"host": "x" * 300}, "--host"),
        ({"host": "unix:/no/such/folder/socket"}, "--host"),
        ({"host": f"unix:/{'x' * 200}"}, "--host"),
        ({"metrics_host": "no.such.host.invalid"}, "--metrics-host"),
        ({"host": "unix-abstract:x", "metrics_host": "192.0.2.1"}, "--metrics-host"),
    ],
)
async def test_a_bad_host_is_named(
    values: dict[str, object], flag: str, configure: Configure
) -> None:
    """An address that can't be had is blamed on the flag that gave it."""
    assert f"({flag}): " in await refusal(configure(**values))


@pytest.mark.parametrize("fails", [[], [True], [False, True], [True, True]])
async def test_a_name_that_is_found_later(
    fails: list[bool], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that can't be resolved at first, and then is that of another address, is no way to
    serve other machines without TLS."""
    found, failing = socket.getaddrinfo, iter(fails)

    def unsteady(host: str, *arguments: Any, **named: Any) -> Any:
        if host == name and next(failing, False):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return found(host, *arguments, **named)

    name = "0"  # of 0.0.0.0, to this machine
    monkeypatch.setattr(socket, "getaddrinfo", unsteady)
    with pytest.raises(StartError, match=r"without TLS|Temporary failure"):
        async with App(configure(host=name, metrics_host="127.0.0.1")):
            pass


@pytest.mark.parametrize("flag", ["port", "metrics_port"])
async def test_a_port_in_use_is_named(flag: str, configure: Configure) -> None:
    """A port that another has is blamed on the port's flag, by IPv6 too."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        line = await refusal(configure(host="[::1]", **{flag: port}))
    assert f"[::1]:{port} (--{flag.replace('_', '-')}): Address already in use" in line


@pytest.mark.parametrize(
    "values",
    [
        {"host": ""},
        {"host": " "},
        {"host": "a\nb"},
        {"host": "unix:"},
        {"host": "unix-abstract:"},
        {"metrics_host": "unix:/tmp/socket"},
    ],
)
def test_what_is_no_address(values: dict[str, str], configure: Configure) -> None:
    """What can be no address is refused as a setting."""
    with pytest.raises(ValidationError, match="must "):
        configure(**values)
