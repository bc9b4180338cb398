"""The client beside the command, of the same server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bilstm_client import Client
from tests.support.servers import RunningServer


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client
