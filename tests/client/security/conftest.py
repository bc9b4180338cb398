"""One world of certificates for all tests, and an environment that says nothing of clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.security.servers import Secured, World, secured


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def silent_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("BILSTM_TOKEN", "BILSTM_CA"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def asking(world: World) -> Iterator[Secured]:
    """A server that knows the tokens `one` and `two`."""
    with secured(world.issue("127.0.0.1"), "one", "two") as server:
        yield server
