"""A model of one layer, and a server of it and of a model of two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import RunningServer, settings, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "one", num_layers=1)


@pytest.fixture(scope="module")
def live_server(folder: Path, model_folder: Path) -> Iterator[RunningServer]:
    """`one` has one layer, `small` two."""
    running = RunningServer(settings(model=[("one", folder), ("small", model_folder)]))
    yield running
    running.close()
