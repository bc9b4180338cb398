"""How a model ends: unloaded, by a fault of its batcher, or with the server; without a server."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from bilstm_server.batching.batcher import Batcher
from bilstm_server.errors import DeviceLost, Unavailable
from bilstm_server.serving.registry import ServedModel
from bilstm_server.settings import ModelSource
from tests.serving.models import encode, sequence, serving
from tests.support.engines import Gated
from tests.support.waiting import HANGS_AFTER_SECONDS, until


async def test_an_unloaded_model_leaves_nothing_behind(
    model_folder: Path, other_folder: Path
) -> None:
    """What was admitted is finished, while the other model serves on; then callers find the model
    no more, and its metrics and its engine are gone. It may be loaded again."""
    gated = Gated()
    models = ("small", model_folder), ("other", other_folder)
    async with serving(*models, load_engine=gated) as server:
        small, other = server.models
        engines = weakref.WeakSet([gated.engines["other"]])
        before = server.samples("other")
        assert before == server.samples("small")
        admitted = [asyncio.create_task(encode(other, steps)) for steps in (1, 2)]
        await gated.engines["other"].arrival()
        unloading = asyncio.create_task(server.models.unload(other))
        await until(lambda: "other" not in [m.name for m in server.registry.all()])
        with pytest.raises(Unavailable):
            await other.batcher.submit([sequence()])
        with pytest.raises(Unavailable):  # a stream's sequence
            await other.batcher.enqueue(sequence())
        assert not unloading.done()
        gated.open()
        assert len(await asyncio.gather(*admitted)) == 2
        await unloading
        await encode(small)
        assert server.samples("other") == set()
        assert server.samples("small") == before
        del other, admitted, unloading
        gated.engines.pop("other")
        gc.collect()  # of refusals, whose tracebacks are circles
        assert not engines
        again = await server.models.load(ModelSource("other", other_folder))
        gated.open()
        await encode(again)
        assert server.samples("other") == before


async def test_unloading_is_no_failure(model_folder: Path, other_folder: Path) -> None:
    """A server ends when a model stops before it is to, and not when one is unloaded."""
    async with serving(("small", model_folder), ("other", other_folder)) as server:
        small, other = server.models
        failing = asyncio.create_task(server.models.failed())
        await server.models.unload(other)
        await encode(small)
        assert not failing.done()
        small.batcher.drain()
        with pytest.raises(RuntimeError, match="a batcher ended"):
            await asyncio.wait_for(failing, HANGS_AFTER_SECONDS)


async def test_a_model_that_is_being_unloaded_is_not_idle(model_folder: Path) -> None:
    """While a call to it is computed the server is not idle, a drain waits for it, and its metrics
    count; a caller that found it before is told what became of it."""
    gated = Gated()
    async with serving(("small", model_folder), load_engine=gated) as server:
        (small,) = server.models
        admitted = asyncio.create_task(encode(small))
        await gated.engines["small"].arrival()
        unloading = asyncio.create_task(server.models.unload(small))
        await asyncio.sleep(0)
        assert list(server.models) == []
        assert not server.models.idle
        assert server.samples("small") != set()
        with pytest.raises(Unavailable, match=r"^model 'small' was unloaded$"):
            await small.batcher.submit([sequence()])
        draining = asyncio.create_task(server.models.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        gated.open()
        await asyncio.gather(admitted, unloading, draining)
        assert server.models.idle
        assert server.samples("small") == set()


async def test_callers_lose_a_model_before_it_takes_nothing_more(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its batcher is drained, no caller can find the model any more."""
    async with serving(("small", model_folder)) as server:
        (small,) = server.models
        found: list[ServedModel] = []
        drain = small.batcher.drain

        def drained(because: str) -> None:
            found.extend(server.registry.all())
            drain(because)

        monkeypatch.setattr(small.batcher, "drain", drained)
        await server.models.unload(small)
        assert found == []
        assert server.registry.drops(server.metrics.no_model) is server.metrics.no_model


async def test_an_unload_that_nobody_waits_for_goes_on(model_folder: Path) -> None:
    """If whoever unloads is cancelled, the call that is there has its result, and then the model's
    metrics go."""
    gated = Gated()
    async with serving(("small", model_folder), load_engine=gated) as server:
        (small,) = server.models
        admitted = asyncio.create_task(encode(small))
        await gated.engines["small"].arrival()
        unloading = asyncio.create_task(server.models.unload(small))
        await asyncio.sleep(0)
        unloading.cancel()
        await asyncio.wait({unloading})
        assert unloading.cancelled()
        gated.open()
        await admitted
        await until(lambda: server.samples("small") == set())


def batch_tasks() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("batch ")]


async def test_no_batcher_outlives_the_models(model_folder: Path, other_folder: Path) -> None:
    """On leaving, every batcher has ended, also that of a model whose unload was cancelled."""
    gated = Gated()
    models = ("small", model_folder), ("other", other_folder)
    async with asyncio.timeout(HANGS_AFTER_SECONDS):
        async with serving(*models, load_engine=gated) as server:
            _, other = server.models
            admitted = asyncio.create_task(encode(other))
            await gated.engines["other"].arrival()
            unloading = asyncio.create_task(server.models.unload(other))
            await asyncio.sleep(0)
            unloading.cancel()
            await asyncio.wait({unloading})
            assert len(batch_tasks()) == 2
        assert batch_tasks() == []
        assert server.samples("other") == set()
        admitted.cancel()
        gated.open()


@pytest.mark.parametrize("unloaded", [False, True])
async def test_a_lost_device_is_a_failure(model_folder: Path, unloaded: bool) -> None:
    """A call on a lost device is told so, and the server hears of that very error, also where the
    model was being unloaded."""
    gated = Gated()
    lost = DeviceLost("the GPU is gone")

    def lose(_: object) -> None:
        raise lost

    async with serving(("small", model_folder), load_engine=gated) as server:
        (small,) = server.models
        gated.engines["small"].fault = lose
        failing = asyncio.create_task(server.models.failed())
        admitted = asyncio.create_task(encode(small))
        await gated.engines["small"].arrival()
        unloading = asyncio.create_task(server.models.unload(small)) if unloaded else None
        await asyncio.sleep(0)
        gated.open()
        with pytest.raises(DeviceLost, match="the GPU is gone"):
            await admitted
        with pytest.raises(DeviceLost, match="the GPU is gone"):
            await asyncio.wait_for(failing, HANGS_AFTER_SECONDS)
        if unloading is not None:
            with pytest.raises(DeviceLost):
                await unloading


async def test_a_batcher_that_fails_is_a_failure(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a batcher raises by a fault of its own is what the server ends with."""

    async def fail(_: Batcher) -> None:
        raise ArithmeticError("a fault of its own")

    monkeypatch.setattr(Batcher, "run", fail)
    async with serving(("small", model_folder)) as server:
        with pytest.raises(ArithmeticError, match="a fault of its own"):
            await asyncio.wait_for(server.models.failed(), HANGS_AFTER_SECONDS)
