"""A server whose bounds a test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rpc.flow.peers import MESSAGE_BYTES
from tests.support.servers import RunningServer, settings


@pytest.fixture
def serve(model_folder: Path) -> Iterator[Callable[..., RunningServer]]:
    """Runs a server with settings of the test's own."""
    with ExitStack() as running:

        def start(**values: object) -> RunningServer:
            server = RunningServer(
                settings(model=[("small", model_folder)], max_message_bytes=MESSAGE_BYTES, **values)
            )
            running.callback(server.close)
            return server

        yield start
