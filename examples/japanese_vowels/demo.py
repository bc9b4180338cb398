"""Start a server, encode the 370 test utterances with many callers at once, check the answers.

    python examples/japanese_vowels/demo.py

Exits with 1 if accuracy or equality with torch.nn.LSTM fail.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

import data
import numpy as np
import torch
from numpy.typing import NDArray

from bilstm_client import AsyncClient, Encoding
from bilstm_server.model import SequenceEncoder, load_model
from bilstm_server.sources import SHIPPED_MODEL
from bilstm_server.testing import server_process

CALLERS = 64
ROUNDS = 5  # each utterance is encoded this often, to have something to time
REQUIRED_ACCURACY = 0.97
TOLERANCE = 1e-5


def main() -> int:
    _, test = data.load()
    print("starting bilstm-server …")
    with server_process() as server:
        before = server.metrics()
        started_at = time.perf_counter()
        encodings, seconds = asyncio.run(_encode_all(server.target, test.sequences))
        elapsed = time.perf_counter() - started_at
        after = server.metrics()
        exit_code = server.stop()
    accuracy = _accuracy(encodings, test.speakers)
    difference = _difference(encodings, test.sequences)
    coalesced = {name: value - before.get(name, 0.0) for name, value in after.items()}
    _report(accuracy, difference, seconds, elapsed, coalesced)
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


async def _encode_all(
    target: str, sequences: Sequence[NDArray[np.float32]]
) -> tuple[list[Encoding], list[float]]:
    """Every utterance ROUNDS times, CALLERS at once; the last encodings, and each call's time."""
    encodings: dict[int, Encoding] = {}
    seconds: list[float] = []
    todo = iter([index for _ in range(ROUNDS) for index in range(len(sequences))])
    async with AsyncClient(target) as client:

        async def caller() -> None:
            for index in todo:
                started_at = time.perf_counter()
                encodings[index] = await client.encode(
                    sequences[index], outputs=["states", "logits"]
                )
                seconds.append(time.perf_counter() - started_at)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [encodings[index] for index in range(len(sequences))], seconds


def _accuracy(encodings: list[Encoding], speakers: NDArray[np.int64]) -> float:
    answers = [encoding.logits.argmax() for encoding in encodings]
    return float(np.mean(np.array(answers) == speakers))


def _difference(encodings: list[Encoding], sequences: Sequence[NDArray[np.float32]]) -> float:
    """The largest difference of any served output from torch.nn.LSTM's, run here."""
    encoder: SequenceEncoder = load_model(SHIPPED_MODEL.folder)
    lstm = encoder.lstm.to_torch().eval()
    largest = 0.0
    with torch.inference_mode():
        for encoding, sequence in zip(encodings, sequences, strict=True):
            expected, _ = lstm(torch.from_numpy(sequence))
            largest = max(largest, float(np.abs(encoding.states - expected.numpy()).max()))
    return largest


def _report(
    accuracy: float,
    difference: float,
    seconds: list[float],
    elapsed: float,
    metrics: dict[str, float],
) -> None:
    def of(name: str, part: str) -> float:
        return metrics[f'{name}_{part}{{model="{SHIPPED_MODEL.name}"}}']

    batches = of("bilstm_batch_sequences", "count")
    compute = of("bilstm_batch_compute_seconds", "sum") / batches
    queued = of("bilstm_queue_seconds", "sum") / of("bilstm_queue_seconds", "count")
    percentiles = statistics.quantiles(seconds, n=100)
    print(
        f"""
accuracy      {accuracy:.1%} of {len(seconds) // ROUNDS} test utterances
equality      at most {difference:.1e} from torch.nn.LSTM with the same weights
throughput    {len(seconds) / elapsed:,.0f} sequences/s, {CALLERS} callers at once
latency       p50 {1e3 * percentiles[49]:.1f} ms, p99 {1e3 * percentiles[98]:.1f} ms
coalescing    {len(seconds)} requests in {batches:.0f} batches: {len(seconds) / batches:.1f} \
sequences and {of("bilstm_batch_tokens", "sum") / batches:.0f} tokens each
              {1e3 * queued:.1f} ms in the queue, {1e3 * compute:.1f} ms to compute a batch"""
    )


if __name__ == "__main__":
    sys.exit(main())
