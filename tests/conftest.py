"""What tests of several subjects are given: small models, and a real server of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # set before the gpu kernel is imported
    os.environ["TRITON_INTERPRET"] = "1"

from tests.support.servers import RunningServer, settings, write_model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sanitize",
        action="store_true",
        help="compile the CPU kernel with sanitizers, whose runtime is preloaded (make sanitize)",
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with a head: input 5, hidden 6, 2 layers, 3 classes."""
    return write_model(
        tmp_path_factory.mktemp("models") / "small",
        head={"num_classes": 3, "pooling": "mean"},
        labels=["red", "green", "blue"],
    )


@pytest.fixture(scope="session")
def token_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model over 20 token ids, without a head."""
    return write_model(
        tmp_path_factory.mktemp("models") / "tokens", seed=1, embedding={"num_embeddings": 20}
    )


@pytest.fixture(scope="session")
def server(model_folder: Path, token_model_folder: Path) -> Iterator[RunningServer]:
    """A server with both models, shared by the tests that leave it as it is."""
    running = RunningServer(
        settings(model=[("small", model_folder), ("tokens", token_model_folder)])
    )
    yield running
    running.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that share tensors this small only wait for one another, five times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
