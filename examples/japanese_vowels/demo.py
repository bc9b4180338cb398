"""Start a server, encode the 370 test utterances one by one, by many callers and in one call.

    python examples/japanese_vowels/demo.py [--picture FILE]

Reports, and exits with 1 if accuracy or equality with torch.nn.LSTM fail.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import data
import numpy as np
import torch
from numpy.typing import NDArray
from picture import picture

from bilstm_client import AsyncClient, Client, Encoding
from bilstm_server.model import SequenceEncoder, load_model
from bilstm_server.settings import SHIPPED_MODEL
from bilstm_server.testing import ServerProcess, server_process

CALLERS = 64
ROUNDS = 5  # each utterance is encoded this often where that is fast, to have something to time
REQUIRED_ACCURACY = 0.97
TOLERANCE = 1e-5

NEXT = """
next:  make serve                                              keeps a server, until Ctrl-C
       .venv/bin/python examples/japanese_vowels/classify.py   asks it, in another terminal
       .venv/bin/python examples/operator/lstm.py              shows the operator in short"""


class Load(NamedTuple):
    """What so many callers at once got."""

    callers: int
    encodings: list[Encoding]  # of each utterance
    call_seconds: list[float]
    elapsed_seconds: float
    metrics: dict[str, float]  # by how much each grew

    @property
    def rate(self) -> float:
        """Sequences a second."""
        return len(self.call_seconds) / self.elapsed_seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--picture", type=Path, default=Path("build/japanese_vowels.svg"))
    chosen = parser.parse_args()
    _, test = data.load()
    print("starting bilstm-server …")
    with server_process() as server:
        _encode(server, test.sequences[:32], 1, 1)  # to warm up
        alone = _encode(server, test.sequences, 1, 1)
        many = _encode(server, test.sequences, CALLERS, ROUNDS)
        together, together_rate = _encode_together(server, test.sequences)
        exit_code = server.stop()
    named = np.array([e.logits.argmax() for e in many.encodings])
    accuracy = float(np.mean(named == test.speakers))
    served = alone.encodings + many.encodings + together
    difference = _difference(served, test.sequences * 3)
    _report(accuracy, difference, alone, many, together_rate)
    longest = max(range(len(test.sequences)), key=lambda index: len(test.sequences[index]))
    states = np.asarray(many.encodings[longest].states)
    chosen.picture.parent.mkdir(parents=True, exist_ok=True)
    chosen.picture.write_text(picture(named, test.speakers, states), encoding="utf-8")
    print(f"picture       {chosen.picture}: who was taken for whom, and the states of an utterance")
    print(NEXT)
    failures = []
    if accuracy < REQUIRED_ACCURACY:
        failures.append(f"accuracy below {REQUIRED_ACCURACY:.0%}")
    if not difference <= TOLERANCE:
        failures.append(f"difference from torch.nn.LSTM above {TOLERANCE:g}")
    if exit_code:
        failures.append(f"the server exited with {exit_code}")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def _encode(
    server: ServerProcess, sequences: Sequence[NDArray[np.float32]], callers: int, rounds: int
) -> Load:
    """Every sequence so often, by so many callers at once, each sending its next when answered."""
    encodings: dict[int, Encoding] = {}
    seconds: list[float] = []
    todo = iter([index for _ in range(rounds) for index in range(len(sequences))])

    async def caller(client: AsyncClient) -> None:
        for index in todo:
            started_at = time.perf_counter()
            encodings[index] = await client.encode(sequences[index], outputs=["states", "logits"])
            seconds.append(time.perf_counter() - started_at)

    async def call() -> None:
        async with AsyncClient(server.target) as client:
            await asyncio.gather(*(caller(client) for _ in range(callers)))

    before = server.metrics()
    started_at = time.perf_counter()
    asyncio.run(call())
    elapsed = time.perf_counter() - started_at
    grown = {name: value - before.get(name, 0.0) for name, value in server.metrics().items()}
    ordered = [encodings[index] for index in range(len(sequences))]
    return Load(callers, ordered, seconds, elapsed, grown)


def _encode_together(
    server: ServerProcess, sequences: Sequence[NDArray[np.float32]]
) -> tuple[list[Encoding], float]:
    """All sequences in one call: the encodings, and how many sequences a second that makes."""
    with Client(server.target) as client:
        started_at = time.perf_counter()
        for _ in range(ROUNDS):
            encodings = client.encode_batch(sequences, outputs=["states", "logits"])
        elapsed = time.perf_counter() - started_at
    return encodings, ROUNDS * len(sequences) / elapsed


def _difference(encodings: list[Encoding], sequences: Sequence[NDArray[np.float32]]) -> float:
    """The largest difference of any served output from torch.nn.LSTM's, run here."""
    encoder: SequenceEncoder = load_model(SHIPPED_MODEL.folder)
    lstm = encoder.lstms[0].to_torch().eval()
    found = []
    with torch.inference_mode():
        for encoding, sequence in zip(encodings, sequences, strict=True):
            expected, _ = lstm(torch.from_numpy(sequence))
            found.append(np.abs(encoding.states - expected.numpy()).max())
    return float(np.max(found))  # NaN if one is


def _report(
    accuracy: float, difference: float, alone: Load, many: Load, together_rate: float
) -> None:
    def of(name: str, part: str) -> float:
        return many.metrics[f'{name}_{part}{{model="{SHIPPED_MODEL.name}"}}']

    def latency(load: Load) -> str:
        percentiles = statistics.quantiles(load.call_seconds, n=100)
        return f"p50 {1e3 * percentiles[49]:.1f} ms, p99 {1e3 * percentiles[98]:.1f} ms"

    batches = of("bilstm_batch_sequences", "count")
    compute = of("bilstm_batch_compute_seconds", "sum") / batches
    queued = of("bilstm_queue_seconds", "sum") / of("bilstm_queue_seconds", "count")
    calls = len(many.call_seconds)
    lone_queued = statistics.median(one.timing.queue_seconds for one in alone.encodings)
    print(
        f"""
accuracy      {accuracy:.1%} of {len(many.encodings)} test utterances
equality      at most {difference:.1e} from torch.nn.LSTM with the same weights
latency       alone:      {latency(alone)}; {1e3 * lone_queued:.2f} ms in the queue
              {many.callers} at once: {latency(many)}
throughput    alone:      {alone.rate:,.0f} sequences/s
              {many.callers} at once: {many.rate:,.0f} sequences/s: \
the callers and the server share {len(os.sched_getaffinity(0))} cores
              one call:   {together_rate:,.0f} sequences/s, all in one encode_batch
coalescing    {calls} requests of {many.callers} callers in {batches:.0f} batches: \
{calls / batches:.1f} sequences and {of("bilstm_batch_tokens", "sum") / batches:.0f} tokens each
              {1e3 * queued:.1f} ms in the queue, {1e3 * compute:.1f} ms to compute a batch"""
    )


if __name__ == "__main__":
    sys.exit(main())
