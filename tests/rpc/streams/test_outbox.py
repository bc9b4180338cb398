"""`Outbox`: in what order results are sent, and in how many messages."""

from __future__ import annotations

import asyncio

import pytest

from bilstm import wire
from bilstm_server.rpc.encoder.streams.outbox import CHUNK_BYTES, Answer, Chunks, Outbox


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
