"""Servers that requests are sent to by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rpc.requests.by_hand import (
    MAX_BATCH_TOKENS,
    MAX_MESSAGE_BYTES,
    MAX_REQUEST_SEQUENCES,
    MAX_SEQUENCE_TOKENS,
    Wire,
    connect,
)
from tests.support.servers import RunningServer, settings


@pytest.fixture(scope="module")
def wire(server: RunningServer) -> Iterator[Wire]:
    """To the shared server, with its default limits."""
    yield from connect(server.target)


@pytest.fixture(scope="module")
def strict(model_folder: Path, token_model_folder: Path) -> Iterator[Wire]:
    """To a server of the same models with small limits."""
    running = RunningServer(
        settings(
            model=[("small", model_folder), ("tokens", token_model_folder)],
            max_sequence_tokens=MAX_SEQUENCE_TOKENS,
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_request_sequences=MAX_REQUEST_SEQUENCES,
            max_message_bytes=MAX_MESSAGE_BYTES,
        )
    )
    try:
        yield from connect(running.target)
    finally:
        running.close()
