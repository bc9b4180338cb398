"""Batches, arrays and models that go to a device and back, and what must hold of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import (
    Array,
    SequenceInput,
    SequenceOutput,
)
from bilstm_server.engine.transfer import (
    as_array,
)
from bilstm_server.metrics import Metrics
from bilstm_server.settings import QueueLimits
from tests.support.waiting import HANGS_AFTER_SECONDS

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Array:
    """Any bits at all, NaNs among them."""
    like = as_array(torch.empty(0, dtype=dtype)).dtype
    size = int(np.prod(shape, dtype=np.int64)) * like.itemsize
    return np.frombuffer(rng.bytes(size), like).reshape(shape)


def assert_same(ours: Array, theirs: Array) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()


def sequences_for(engine: Engine, lengths: Sequence[int], seed: int = 0) -> list[SequenceInput]:
    """Every second one with an initial state."""
    config, rng = engine.config, np.random.default_rng(seed)
    outputs = frozenset(config.output_names)
    (own,) = config.inputs.values()

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    def steps(count: int) -> Array:
        return rng.integers(own.ids, size=count) if own.ids else draw(count, own.value.width)

    def state() -> tuple[Array, Array]:
        assert config.state is not None
        rows, *widths, _ = config.state
        h_0, c_0 = (draw(rows, width) for width in widths)
        return h_0, c_0

    return [
        SequenceInput((steps(count),), outputs, state() if index % 2 else None)
        for index, count in enumerate(lengths)
    ]


def arrays_of(output: SequenceOutput) -> dict[str, Array]:
    arrays: dict[str, Array] = {str(name): array for name, array in output.arrays.items()}
    if output.state is not None:
        arrays["hidden"], arrays["cell"] = output.state
    return arrays


def outputs_outlive_their_batch(engine: Engine) -> None:
    (kept, *_) = engine.run(sequences_for(engine, [5, 3, 70]))
    before = {name: array.copy() for name, array in arrays_of(kept).items()}
    for seed in range(1, 20):
        engine.run(sequences_for(engine, [5, 3, 70], seed))
    for name, array in arrays_of(kept).items():
        assert_same(array, before[name])


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "head": {"head": {"num_classes": 3, "pooling": "max"}},
    "embedding": {"embedding": {"num_embeddings": 20}},
    "one direction": {"bidirectional": False},
    "projection": {"proj_size": 4, "bias": False},
}


async def batched(
    engine: Engine, sequences: Sequence[SequenceInput], **more: Any
) -> list[SequenceOutput]:
    """The sequences' outputs by way of a `Batcher`, in one batch if memory allows."""
    tokens = sum(sequence.tokens for sequence in sequences)
    limits = QueueLimits(
        max_batch_tokens=tokens, max_batch_sequences=len(sequences), max_queue_tokens=tokens, **more
    )
    with Device() as device:
        batcher = Batcher(engine, limits, device, Metrics().model("m"))
        running = asyncio.create_task(batcher.run())
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            results = await batcher.submit(sequences)
            batcher.drain()
            await running
    return [result.output for result in results]
