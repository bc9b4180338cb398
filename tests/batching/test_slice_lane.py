"""Long sequences beside short ones: who computes when, and that each ends exactly once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bilstm_client import AsyncClient, DeadlineExceeded, Encoding, Overloaded, ServerError
from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.errors import OutOfMemory
from bilstm_server.settings import Settings
from tests.support.engines import first_batcher, held_server
from tests.support.servers import settings
from tests.support.waiting import until

Array = NDArray[Any]
LONG = 3_000


def sequence(seed: int, steps: int) -> Array:
    return np.random.default_rng(seed).standard_normal((steps, 5), np.float32)


def client_of(app: App) -> AsyncClient:
    return AsyncClient(f"127.0.0.1:{app.port}")


def of(folder: Path, **more: Any) -> Settings:
    return settings(model=[("small", folder)], **more)


def metric(app: App, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(name, {"model": "small", **labels}) or 0.0


def whole(folder: Path, x: Array) -> Array:
    engine = Engine.load(folder, "cpu", "float32", "auto")
    (output,) = engine.run([SequenceInput((x,), frozenset({"states"}))])
    return output.arrays["states"]


async def test_short_ones_do_not_wait(model_folder: Path) -> None:
    """While a long sequence is computed, requests are; what it is in the end is what it is whole,
    and both are counted."""
    async with held_server(of(model_folder)) as (app, held), client_of(app) as client:
        long = asyncio.create_task(client.encode(sequence(0, LONG)))
        await until(lambda: metric(app, "bilstm_slice_compute_seconds_count") > 0)
        for seed in range(3):
            short = await client.encode(sequence(seed, 4))
            assert short.timing.batch_sequences == 1
        assert not long.done()
        held.first.held = False
        encoding = await long
        np.testing.assert_array_equal(encoding.states, whole(model_folder, sequence(0, LONG)))
        assert encoding.timing.batch_tokens == LONG
        assert metric(app, "bilstm_sequences_total") == 4
        assert metric(app, "bilstm_tokens_total") == LONG + 3 * 4
        assert metric(app, "bilstm_queue_seconds_count") == 4


async def test_long_ones_share_slices(model_folder: Path) -> None:
    """Long sequences at the same layer advance together, each with the result that it has alone."""
    arrays = [sequence(seed, LONG + 100 * seed) for seed in range(4)]
    async with held_server(of(model_folder)) as (app, held), client_of(app) as client:
        calls = [asyncio.create_task(client.encode(x)) for x in arrays]
        lane = first_batcher(app)._lane
        await until(lambda: len(lane._active) == 4)
        held.first.held = False
        results = await asyncio.gather(*calls)
        assert max(map(len, held.first.slices)) == 4
    for x, encoding in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(encoding.states, whole(model_folder, x))
        assert encoding.timing.batch_sequences == 4


async def outcome(call: asyncio.Task[Encoding]) -> Encoding | BaseException:
    return (await asyncio.gather(call, return_exceptions=True))[0]


@pytest.mark.parametrize(
    ("error", "expected"), [(ArithmeticError("no"), ServerError), (OutOfMemory("no"), Overloaded)]
)
async def test_only_the_guilty_fails(
    model_folder: Path, error: Exception, expected: type[Exception]
) -> None:
    """A long sequence that makes its slices fail fails alone."""

    def refuse(lengths: Any) -> None:
        if LONG + 1 in lengths:
            raise error

    async with held_server(of(model_folder)) as (app, held), client_of(app) as client:
        held.first.refuses = refuse
        calls = [asyncio.create_task(client.encode(sequence(0, LONG + n))) for n in range(3)]
        batcher = first_batcher(app)
        lane, work = batcher._lane, batcher._admission.long_work
        await until(lambda: len(lane._active) == 3)
        held.first.held = False
        first, guilty, third = [await outcome(call) for call in calls]
        assert isinstance(guilty, expected)
        assert metric(app, "bilstm_dropped_total", reason="failed") == 1
        assert not lane
        assert work.tokens == 0
    for steps, result in ((LONG, first), (LONG + 2, third)):
        assert isinstance(result, Encoding)
        np.testing.assert_array_equal(result.states, whole(model_folder, sequence(0, steps)))


async def test_callers_that_leave_are_not_computed_for(model_folder: Path) -> None:
    """A caller that leaves, or whose deadline passes, is not computed for any more."""
    async with held_server(of(model_folder)) as (app, _), client_of(app) as client:
        expiring = asyncio.create_task(client.encode(sequence(0, LONG), timeout_seconds=0.5))
        leaving = asyncio.create_task(client.encode(sequence(1, LONG)))
        batcher = first_batcher(app)
        lane, work = batcher._lane, batcher._admission.long_work
        await until(lambda: len(lane._active) == 2)
        assert work.tokens == 2 * LONG
        leaving.cancel()
        assert isinstance(await outcome(expiring), DeadlineExceeded)
        await until(lambda: not lane)
        assert work.tokens == 0
        assert metric(app, "bilstm_dropped_total", reason="cancelled") == 1
        assert metric(app, "bilstm_dropped_total", reason="expired") == 1


async def test_long_requests_take_room_in_the_queue(model_folder: Path) -> None:
    """Calls are refused, too, where more would wait than may with the long sequences that do; the
    refusal counts those, and says how long they will take."""
    limits = {"max_sequence_tokens": LONG, "max_batch_tokens": LONG, "max_queue_tokens": 2 * LONG}
    async with (
        held_server(of(model_folder, **limits)) as (app, held),
        client_of(app) as client,
    ):
        calls = [asyncio.create_task(client.encode(sequence(n, LONG))) for n in range(2)]
        work = first_batcher(app)._admission.long_work
        await until(lambda: sum(filter(None, work._left.values())) == 2 * 2 * LONG)  # have begun
        layer_seconds = LONG * 0.001
        work._seconds_per_token = 0.001  # as if slices had taken so long
        with pytest.raises(Overloaded) as refusal:
            await client.encode(sequence(2, 1))
        assert f"2 sequences with {2 * LONG} tokens" in refusal.value.message
        assert refusal.value.retry_after_seconds == pytest.approx(2 * 2 * layer_seconds)
        held.first.held = False
        await asyncio.gather(*calls)
        await client.encode(sequence(2, 1))


async def test_other_models_have_their_turns(model_folder: Path, token_model_folder: Path) -> None:
    """A long sequence of one model does not keep the device from another one."""
    both = settings(model=[("small", model_folder), ("tokens", token_model_folder)])
    async with held_server(both) as (app, held), client_of(app) as client:
        long = asyncio.create_task(client.encode(sequence(0, LONG)))
        await until(lambda: metric(app, "bilstm_slice_compute_seconds_count") > 0)
        short = await client.encode(np.arange(5), model="tokens")
        assert short.states is not None
        assert not long.done()
        held.first.held = False
        await long


async def test_drain_finishes_what_is_long(model_folder: Path) -> None:
    """A drain waits for a long sequence that was begun, which has its result."""
    async with held_server(of(model_folder)) as (app, held), client_of(app) as client:
        long = asyncio.create_task(client.encode(sequence(0, LONG)))
        await until(lambda: metric(app, "bilstm_slice_compute_seconds_count") > 0)
        draining = asyncio.create_task(app.drain())
        held.first.held = False
        assert (await long).states is not None
        assert await draining
