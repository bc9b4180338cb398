"""Models that are loaded while others serve; without a server."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch

from bilstm_server.engine.engine import Engine
from bilstm_server.errors import ModelError, ModelNotFound
from bilstm_server.serving.loading import load_engine
from bilstm_server.settings import ModelSource, Settings
from tests.serving.models import encode, serving
from tests.support.servers import settings, write_model
from tests.support.waiting import HANGS_AFTER_SECONDS


class LoadsAtGate:
    """A `load_engine` that loads the folders of these names only once `gate` is set."""

    def __init__(self, *names: str):
        self._names = names
        self.begun = threading.Event()
        self.gate = threading.Event()

    def __call__(self, folder: Path, settings: Settings) -> Engine:
        if folder.name in self._names:
            self.begun.set()
            assert self.gate.wait(HANGS_AFTER_SECONDS)
        return load_engine(folder, settings)


async def test_a_model_is_served_while_another_loads(
    model_folder: Path, other_folder: Path
) -> None:
    """Calls to one model are answered while another one loads; then calls to that are, too, and
    the default model is still the first."""
    load = LoadsAtGate("other")
    async with serving(("small", model_folder), load_engine=load) as server:
        first = server.registry.get("", "")
        loading = asyncio.create_task(server.models.load(ModelSource("other", other_folder)))
        try:
            assert await asyncio.to_thread(load.begun.wait, HANGS_AFTER_SECONDS)
            for _ in range(3):
                await encode(first)
            with pytest.raises(ModelNotFound):
                server.registry.get("other", "")
            assert server.samples("other") == set()
        finally:
            load.gate.set()
            other = await loading
        assert server.registry.get("other", "") is other
        assert server.registry.get("", "") is first
        assert "bilstm_model_info" in server.samples("other")
        await encode(other)


async def test_one_version_takes_the_place_of_another(tmp_path: Path) -> None:
    """A newer version is the default from its load on; when the older one is unloaded, the model's
    metrics stay."""
    old, new = (write_model(tmp_path / str(n), seed=n, version=n) for n in (1, 2))
    async with serving(("m", old)) as server:
        (first,) = server.models
        await encode(first)
        second = await server.models.load(ModelSource("m", new))
        assert server.registry.get("m", "") is second
        await server.models.unload(first)
        await encode(second)
        assert [m.version for m in server.registry.all()] == ["2"]
        counted = server.metrics.registry.get_sample_value("bilstm_sequences_total", {"model": "m"})
        assert counted == 2


async def test_a_model_that_fails_to_load_harms_no_other(
    model_folder: Path, tmp_path: Path
) -> None:
    """A broken folder, or a version that is served already, is refused, and the rest goes on."""
    async with serving(("small", model_folder)) as server:
        (small,) = server.models
        before = server.samples("small")
        with pytest.raises(ModelError, match="a model is a folder with it"):
            await server.models.load(ModelSource("broken", tmp_path))
        with pytest.raises(ModelError, match="has version 1 twice"):
            await server.models.load(ModelSource("small", model_folder))
        assert list(server.models) == list(server.registry.all()) == [small]
        assert server.samples("broken") == set()
        assert server.samples("small") == before
        limit = server.metrics.registry.get_sample_value(
            "bilstm_queue_limit_tokens", {"model": "small"}
        )
        assert limit == settings().max_queue_tokens
        await encode(small)


async def test_the_loading_thread_computes_alone(model_folder: Path) -> None:
    """torch runs in one thread where models load, and in all that are set where they compute."""
    counts: dict[str, int] = {}

    class Counting(Engine):
        def warm_up(self, most_tokens: int = 0) -> None:
            super().warm_up(most_tokens)
            counts[threading.current_thread().name.split("_")[0]] = torch.get_num_threads()

        def warm_thread(self) -> None:
            super().warm_thread()
            counts[threading.current_thread().name.split("_")[0]] = torch.get_num_threads()

    def load(folder: Path, settings: Settings) -> Engine:
        engine = Counting.load(folder, "cpu", "float32", "auto")
        engine.warm_up()
        return engine

    before = torch.get_num_threads()
    try:
        async with serving(("small", model_folder), load_engine=load, threads=3):
            assert counts == {"load": 1, "compute": 3}
            assert await asyncio.to_thread(torch.get_num_threads) == 3  # a thread to come
    finally:
        torch.set_num_threads(before)
