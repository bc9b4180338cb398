"""A server of models of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from bilstm.v1 import encoder_pb2_grpc
from tests.rpc.judged import MODELS, Judge, Service
from tests.support.servers import RunningServer, plain_config, settings, write_model


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("served")
    folders = {name: write_model(root / name, **config) for name, config in MODELS.items()}
    running = RunningServer(settings(model=list(folders.items())))
    with grpc.insecure_channel(running.target) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        judges = {
            name: Judge.of(folder, plain_config(**_sizes(name))) for name, folder in folders.items()
        }
        yield Service(running.target, stub, judges)
    running.close()


def _sizes(name: str) -> dict[str, Any]:
    return {key: value for key, value in MODELS[name].items() if key != "seed"}
