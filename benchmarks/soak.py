"""A server under load for long: whether its memory, its descriptors or its threads grow.

    python -m benchmarks.soak --seconds 600

Calls arrive by themselves, at a share of what the machine can do; beside them come and go streams,
each on a connection of its own. A tenth of the calls and half of the streams are cancelled on the
way. All of it is under TLS and with a token, whose files are changed again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import trustme

from benchmarks.faults.findings import Finding, heading, told
from benchmarks.load import closed_loop
from benchmarks.memory import resident
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.testing import ServerProcess, server_process

NAME = "soak"
ENCODE = "/bilstm.v1.EncoderService/Encode"
STREAM = "/bilstm.v1.EncoderService/EncodeStream"
_HOST = "127.0.0.1"
_TOKEN = "soak-".ljust(40, "x")
_WIDTH = 12  # of the model that ships
_CALLERS = 32  # by which the capacity is measured
_CAPACITY_SECONDS = 5.0
_STREAMS = 4
_STREAM_SEQUENCES, _LONG_STEPS = 40, 5_000
_CANCELLED = 0.1  # of the calls
_PATIENCE_SECONDS = 60.0  # for a call or a stream to end
_SAMPLE_SECONDS, _RELOAD_SECONDS = 0.5, 5.0
_MOST_GROWTH = 2.0  # %


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0, help="after warm-up")
    parser.add_argument("--warm-up-seconds", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity")
    parser.add_argument("--check", action="store_true", help="fail if a limit is missed")
    chosen = parser.parse_args()
    print(heading())
    findings = list(told(trial(chosen.seconds, chosen.warm_up_seconds, chosen.share)))
    missed = sum(bool(finding.limit) and not finding.held for finding in findings)
    return 1 if chosen.check and missed else 0


def trial(seconds: float, warm_up_seconds: float, share: float) -> Iterator[Finding]:
    with ExitStack() as running:
        reloads = Reloads(Path(running.enter_context(tempfile.TemporaryDirectory())))
        server = running.enter_context(server_process(*reloads.flags))
        soak = Soak(server, reloads)
        asyncio.run(soak.run(seconds, warm_up_seconds, share))
        code = server.stop()
    sent = f"{soak.rate:.0f} calls/s, {share:.0%} of the capacity, for {seconds:.0f} s"
    usage = soak.samples
    memory = _fifths([sample.memory for sample in usage])
    for number, held in enumerate(memory, 1):
        yield Finding(NAME, sent, f"memory after warm-up, part {number} of 5", held, "MB")
    growth = 100 * (memory[-1] / memory[0] - 1)
    yield Finding(NAME, sent, "growth of memory from part 1 to 5", growth, "%", _MOST_GROWTH)
    for measured, values in (
        ("descriptors", [float(sample.descriptors) for sample in usage]),
        ("threads", [float(sample.threads) for sample in usage]),
    ):
        first, *_, last = _fifths(values)
        yield Finding(NAME, sent, f"{measured} after warm-up", first)
        yield Finding(NAME, sent, f"{measured} more in the end", last - first, most=0)
    for ended, count in sorted(soak.ended.items()):
        yield Finding(NAME, sent, ended, count)
    yield Finding(NAME, sent, "calls and streams that failed", soak.failed, most=0)
    yield Finding(NAME, sent, "reloads", reloads.count)
    taken = sum(event["event"] == "reloaded" for event in server.log)
    yield Finding(NAME, sent, "files read anew", taken, least=2 * reloads.count)
    errors = [event for event in server.log if event["level"] in ("error", "critical")]
    yield Finding(NAME, sent, "lines of errors in its log", len(errors), most=0)
    yield Finding(NAME, sent, "drained in the end", code == 0, least=1)


def _fifths(samples: list[float]) -> list[float]:
    """The median of each fifth of the samples, in order."""
    bounds = [number * len(samples) // 5 for number in range(6)]
    parts = (samples[start : max(stop, start + 1)] for start, stop in pairwise(bounds))
    return [statistics.median(part) for part in parts]


class Reloads:
    """The files that the server reads anew while it serves: its certificate, and its tokens."""

    def __init__(self, folder: Path):
        self._authority = trustme.CA()
        self._certificate, self._key = folder / "tls.crt", folder / "tls.key"
        self._tokens = folder / "tokens"
        self.count = 0
        self._write()
        files = {
            "--tls-cert": self._certificate,
            "--tls-key": self._key,
            "--tokens-file": self._tokens,
        }
        self.flags = [f"{flag}={path}" for flag, path in files.items()]
        self.credentials = grpc.ssl_channel_credentials(self._authority.cert_pem.bytes())
        self.metadata = [("authorization", f"Bearer {_TOKEN}")]

    def again(self, server: ServerProcess) -> None:
        """Swap the files, for another certificate and another token beside the callers' own, and
        tell the server."""
        self.count += 1
        self._write()
        server.send(signal.SIGHUP)

    def _write(self) -> None:
        issued = self._authority.issue_cert(_HOST)
        for path, content in (
            (self._certificate, b"".join(pem.bytes() for pem in issued.cert_chain_pems)),
            (self._key, issued.private_key_pem.bytes()),
            (self._tokens, f"soak: {_TOKEN}\nother: {self.count:032}\n".encode()),
        ):
            whole = path.with_suffix(".new")
            whole.write_bytes(content)
            whole.rename(path)


@dataclass(frozen=True, slots=True)
class Sample:
    memory: float  # MB
    descriptors: int
    threads: int


@dataclass
class Soak:
    """The load, and what the server holds meanwhile."""

    server: ServerProcess
    reloads: Reloads
    samples: list[Sample] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    rate: float = 0.0
    failed: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    async def run(self, seconds: float, warm_up_seconds: float, share: float) -> None:
        async with grpc.aio.secure_channel(self.server.target, self.reloads.credentials) as channel:
            self._encode: Any = channel.unary_unary(ENCODE)
            measured = await closed_loop(self._call, _CALLERS, _CAPACITY_SECONDS)
            self.rate = share * len(measured) / _CAPACITY_SECONDS
            self.ended.clear()
            until = time.perf_counter() + warm_up_seconds + seconds
            async with asyncio.TaskGroup() as tasks:
                for number in range(_STREAMS):
                    tasks.create_task(self._streams(number, until))
                tasks.create_task(self._reload(until))
                tasks.create_task(self._calls(until))
                await asyncio.sleep(warm_up_seconds)
                await self._sample(until)

    def _request(self) -> bytes:
        x = np.zeros((int(self._rng.integers(4, 64)), _WIDTH), np.float32)
        return pb.EncodeRequest(sequences=[tensors.encode(x)]).SerializeToString()

    async def _call(self, _: int) -> None:
        await self._begin(self._encode, self._request())

    async def _calls(self, until: float) -> None:
        async with asyncio.TaskGroup() as calls:
            due = time.perf_counter()
            while due < until:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                calls.create_task(self._one())
                due += self._rng.exponential(1 / self.rate)

    async def _one(self) -> None:
        call = self._begin(self._encode, self._request())
        left = False
        if self._rng.random() < _CANCELLED:
            await asyncio.sleep(self._rng.exponential(0.002))
            left = call.cancel()
        await self._count("calls", call.code, left)

    def _begin(self, method: Any, request: object) -> Any:
        return method(request, metadata=self.reloads.metadata, timeout=_PATIENCE_SECONDS)

    async def _streams(self, number: int, until: float) -> None:
        """One stream after the other, as those have them who come and go."""
        while time.perf_counter() < until:
            options = [("grpc.use_local_subchannel_pool", 1), ("soak.number", number)]
            async with grpc.aio.secure_channel(
                self.server.target, self.reloads.credentials, options
            ) as channel:
                open_stream: Any = channel.stream_stream(STREAM)
                call = self._begin(open_stream, self._messages())
                leaves_after = self._rng.integers(1, 2 * _STREAM_SEQUENCES)
                replies, left = 0, False
                with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    async for _ in call:
                        replies += 1
                        if replies == leaves_after:
                            left = call.cancel()
                await self._count("streams", call.code, left)

    async def _messages(self) -> AsyncIterator[bytes]:
        yield pb.EncodeStreamRequest(options=pb.StreamOptions()).SerializeToString()
        for number in range(1, _STREAM_SEQUENCES + 1):
            steps = _LONG_STEPS if number % 20 == 0 else int(self._rng.integers(4, 64))
            x = np.zeros((steps, _WIDTH), np.float32)
            chunk = pb.SequenceChunk(id=number, steps=tensors.encode(x), last=True)
            yield pb.EncodeStreamRequest(chunks=[chunk]).SerializeToString()
            await asyncio.sleep(self._rng.exponential(0.05))

    async def _count(self, what: str, code: Callable[[], Any], left: bool) -> None:
        """Count how one has ended. `left`: its caller cancelled it; else the server did."""
        name = (await code()).name
        expected = {"OK": "answered"} | ({"CANCELLED": "cancelled"} if left else {})
        self.ended[f"{what} {expected.get(name, f'ended as {name}')}"] += 1
        self.failed += name not in expected

    async def _reload(self, until: float) -> None:
        while time.perf_counter() < until:
            self.reloads.again(self.server)
            await asyncio.sleep(_RELOAD_SECONDS)

    async def _sample(self, until: float) -> None:
        process = psutil.Process(self.server.pid)
        while time.perf_counter() < until:
            pid = self.server.pid
            sample = Sample(resident(pid), process.num_fds(), process.num_threads())
            self.samples.append(sample)
            await asyncio.sleep(_SAMPLE_SECONDS)


if __name__ == "__main__":
    # As Ctrl-C: the server that was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
