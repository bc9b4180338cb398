"""`Outbox`: in what order results are sent, and in how many messages."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from bilstm import tensors, wire
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.batching.jobs import BatchTiming, Result
from bilstm_server.engine.sequences import SequenceOutput
from bilstm_server.model import ModelConfig
from bilstm_server.rpc.encoder.streams.outbox import (
    CHUNK_BYTES,
    Answer,
    Chunks,
    Outbox,
    result_chunks,
)


def chunks(*names: str, size: int = 1) -> Chunks:
    """One for each letter, so many bytes of it."""
    part: wire.Part
    for name in names:
        part = name.encode() * size
        yield [part]


async def sent(outbox: Outbox) -> list[str]:
    """The letters of each message."""
    outbox.close()
    async with asyncio.timeout(60):
        messages = [message.decode() async for message in outbox.messages()]
    return ["".join(dict.fromkeys(message)) for message in messages]


@pytest.mark.parametrize("any_order", [False, True])
async def test_order(any_order: bool) -> None:
    """What is done first is sent first only where any order will do."""
    outbox, written = Outbox(any_order), []
    answers = [Answer(lambda name=name: written.append(name)) for name in "ab"]  # type: ignore[misc]
    for answer in answers:
        outbox.expect(answer)
    outbox.put(answers[1], chunks("b"))
    outbox.put(answers[0], chunks("a"))
    order = "ba" if any_order else "ab"
    assert await sent(outbox) == [order]
    assert written == list(order)
    assert all(answer.sent.is_set() for answer in answers)


@pytest.mark.parametrize("any_order", [False, True])
async def test_a_large_answer(any_order: bool) -> None:
    """The others pass it, between its chunks, only where any order will do."""
    outbox = Outbox(any_order)
    outbox.send(chunks("a", "b", "c", size=CHUNK_BYTES))
    outbox.send(chunks("x"))
    assert await sent(outbox) == (["a", "xb", "c"] if any_order else ["a", "b", "c", "x"])


async def test_what_comes_while_a_message_is_written_stays_in_order() -> None:
    """What comes while a message is written stays in order, also that of one sequence, such as a
    live one's last block and its end."""
    outbox = Outbox(any_order=True)
    outbox.send(chunks("a"))
    messages = outbox.messages()
    assert await anext(messages) == b"a"
    outbox.send(chunks("b"))
    outbox.send(chunks("c"))
    assert await anext(messages) == b"bc"
    await messages.aclose()


def test_chunks_are_counted_by_steps() -> None:
    """Where an output has more rows than the sequence has steps, or fewer, chunks begin at the step
    that they say, and joined they are the output."""
    layers = [
        {"name": "lstm", "type": "lstm", "hidden_size": 4},
        {"name": "more", "type": "conv1d", "width": 8, "kernel": 1, "padding": 500},
        {"name": "few", "type": "splice", "inputs": ["lstm"], "kernel": 1, "stride": 10},
    ]
    outputs = {"states": "lstm", "more": "more", "few": "few"}
    config = ModelConfig.model_validate(
        {"inputs": {"x": {"width": 3}}, "layers": layers, "outputs": outputs}
    )
    steps = 20_000
    rows = {"states": steps, "more": steps + 1000, "few": steps // 10}
    arrays = {name: np.arange(8 * n, dtype=np.float32).reshape(n, 8) for name, n in rows.items()}
    result = Result(SequenceOutput(dict(arrays)), BatchTiming(0.0, 0.0, 1, steps))
    found: dict[str, list[np.ndarray]] = {name: [] for name in rows}
    step = 0
    for parts in result_chunks(0, result, np.dtype(np.float32), config):
        (chunk,) = pb.EncodeStreamResponse.FromString(b"".join(parts)).chunks
        assert chunk.first_step == step
        found["states"].append(tensors.decode(chunk.encoding.states))
        step += len(found["states"][-1])
        for own in chunk.encoding.named:
            found[own.name].append(tensors.decode(own.tensor))
    assert len(found["states"]) > 2
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.concatenate(found[name]), array)
