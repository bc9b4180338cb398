"""Callers of a real server share it: one with many calls leaves the others their part."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from tests.support.engines import first_batcher, gated_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

POLITE = range(9)
CALLS = 73
BATCHES = 120
STEPS = {"greedy": 11} | {f"polite {n}": n + 1 for n in POLITE}  # tell whose a sequence is
OF_STEPS = {steps: name for name, steps in STEPS.items()}


async def test_the_greedy_leave_the_polite_their_part(model_folder: Path, tmp_path: Path) -> None:
    """Beside one caller with 64 calls, each of nine with one call has nine tenths of an equal part
    of the batches at least; who they are is what their tokens say."""
    tokens = {name: name.replace(" ", "-").ljust(32, "x") for name in STEPS}
    lines = (f"{name.replace(' ', '-')}: {token}\n" for name, token in tokens.items())
    (tmp_path / "tokens").write_text("".join(lines))
    limits = settings(
        model=[("m", model_folder)],
        max_batch_sequences=1,
        max_queue_seconds=3600,  # the test's own pace is no reason to refuse
        tokens_file=tmp_path / "tokens",
    )
    async with gated_server(limits) as (app, gated):
        engine = gated.engines[model_folder.name]
        go_on = threading.Semaphore(0)
        enough = asyncio.Event()

        def at_gate() -> None:
            assert go_on.acquire(timeout=HANGS_AFTER_SECONDS)

        engine.at_gate = at_gate
        gated.open()

        def waiting() -> int:
            return first_batcher(app)._admission.sequences

        def began(before: int) -> bool:
            return len(engine.batches) > before

        async def calls(channel: grpc.aio.Channel, name: str, steps: int) -> None:
            stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
            metadata = [("authorization", f"Bearer {tokens[name]}")]
            x = tensors.encode(np.zeros((steps, 5), "<f4"))
            while not enough.is_set():
                await stub.Encode(pb.EncodeRequest(sequences=[x]), metadata=metadata)

        own = [("grpc.use_local_subchannel_pool", 1)]  # a connection, and so a peer, each
        target = f"127.0.0.1:{app.port}"
        clients = [grpc.aio.insecure_channel(target, own) for _ in STEPS]
        try:
            many = [CALLS - len(POLITE), *[1 for _ in POLITE]]
            running = [
                asyncio.create_task(calls(client, name, steps))
                for client, (name, steps), count in zip(clients, STEPS.items(), many, strict=True)
                for _ in range(count)
            ]
            while len(engine.batches) < BATCHES:
                before = len(engine.batches)
                # All wait but for one that is computed, and one that is staged ahead.
                await until(lambda: waiting() >= CALLS - 2)
                go_on.release()
                await until(partial(began, before))
            enough.set()
            go_on.release(BATCHES)
            await asyncio.gather(*running)
        finally:
            for client in clients:
                await client.close()
    begun = engine.batches[20:BATCHES]
    got = Counter(OF_STEPS[steps] for batch in begun for steps in batch)
    assert min(got[f"polite {n}"] for n in POLITE) >= 0.9 * got.total() / 10 - 1
