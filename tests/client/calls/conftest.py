"""Servers with tiny limits, and with an engine that stands at a gate."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.client.clients import AnyClient, Connect
from tests.support.engines import Gated
from tests.support.servers import RunningServer, settings, write_model


@pytest.fixture(scope="module")
def limited(
    model_folder: Path, token_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with tiny limits: 4 sequences, 100 steps, 1,600 bytes."""
    forward = write_model(tmp_path_factory.mktemp("models") / "forward", bidirectional=False)
    running = RunningServer(
        settings(
            model=[("small", model_folder), ("tokens", token_model_folder), ("forward", forward)],
            max_request_sequences=4,
            max_sequence_tokens=50,
            max_batch_tokens=100,
            max_message_bytes=1600,
        )
    )
    yield running
    running.close()


@pytest.fixture
def limited_client(connect: Connect, limited: RunningServer) -> AnyClient:
    return connect(limited.target)


@pytest.fixture(scope="module")
def gated_servers() -> Iterator[list[RunningServer]]:
    """Servers to close after the last test, all at once: each takes a while."""
    running: list[RunningServer] = []
    yield running
    with ThreadPoolExecutor() as pool:
        list(pool.map(RunningServer.close, running))


@pytest.fixture
def gated(
    model_folder: Path, gated_servers: list[RunningServer]
) -> Iterator[tuple[RunningServer, Gated]]:
    """A server with room for one short sequence in the queue, whose engine stands at a gate."""
    gate = Gated()
    running = RunningServer(
        settings(
            model=[("small", model_folder)],
            max_sequence_tokens=4,
            max_batch_tokens=4,
            max_queue_tokens=4,
        ),
        gate,
    )
    gated_servers.append(running)
    yield running, gate
    gate.open()
