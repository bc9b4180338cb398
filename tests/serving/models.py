"""The part of a server that owns its models, without the rest, and a caller of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from bilstm_server.batching.jobs import Result
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.metrics import Metrics
from bilstm_server.serving.loading import LoadEngine, load_engine
from bilstm_server.serving.models import Models
from bilstm_server.serving.registry import ModelRegistry, ServedModel
from bilstm_server.settings import Settings
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS


class Server:
    """The part of a server that owns its models."""

    def __init__(self, served: Settings, load_engine: LoadEngine):
        self.metrics = Metrics()
        self.registry = ModelRegistry()
        self.models = Models(served, self.registry, self.metrics, None, load_engine)

    def samples(self, model: str) -> set[str]:
        """The metrics that have that model's label."""
        return {
            sample.name
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.labels.get("model") == model
        }


@asynccontextmanager
async def serving(
    *models: tuple[str, Path], load_engine: LoadEngine = load_engine, **values: object
) -> AsyncIterator[Server]:
    server = Server(settings(model=list(models), **values), load_engine)
    async with server.models:
        await server.models.load_all()
        yield server


def sequence(steps: int = 3) -> SequenceInput:
    return SequenceInput((np.ones((steps, 5), np.float32),), frozenset({"final"}))


async def encode(model: ServedModel, steps: int = 3) -> Result:
    async with asyncio.timeout(HANGS_AFTER_SECONDS):
        (result,) = await model.batcher.submit([sequence(steps)])
    return result
