"""A model folder, served in this process for as long as it takes to ask it something.

Every way is a real one: a server on a socket of its own, and requests that callers could send.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import structlog
import torch

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from ..app import App
from ..engine.sequences import Array
from ..errors import ModelError
from ..settings import Settings

Arrays = Mapping[str, Array]  # by the name of the input or output

SLICED_BEYOND = 64  # steps: longer sequences are computed in slices

_TIMEOUT_SECONDS = 300.0
_CHUNK_STEPS = (1, 3, 17, 2, 64, 5)  # of the parts in which a stream brings a sequence


class Served:
    """A model that is served. Each method asks for all outputs, in one of the ways there are."""

    def __init__(self, stub: Any, outputs: Sequence[str]):
        self._stub = stub
        self._outputs = outputs

    def alone(self, sequences: Sequence[Arrays]) -> list[dict[str, Array]]:
        """One request after the other."""
        return [self._encode([sequence])[0] for sequence in sequences]

    def together(self, sequences: Sequence[Arrays]) -> list[dict[str, Array]]:
        """All in one request, and so in as few batches as can be."""
        return self._encode(sequences)

    def streamed(self, sequences: Sequence[Arrays]) -> list[dict[str, Array]]:
        """Over one stream, in parts that take turns."""
        options = pb.StreamOptions(output_names=self._outputs)
        requests = [pb.EncodeStreamRequest(options=options)]
        requests += [pb.EncodeStreamRequest(chunks=[chunk]) for chunk in _chunks(sequences)]
        parts: list[list[pb.Encoding]] = [[] for _ in sequences]
        for reply in self._stub.EncodeStream(iter(requests), timeout=_TIMEOUT_SECONDS):
            for chunk in reply.chunks:
                if chunk.HasField("error"):
                    raise ModelError(f"a stream's sequence failed: {chunk.error.message}")
                parts[chunk.id].append(chunk.encoding)
        return [_joined([_arrays(encoding) for encoding in own]) for own in parts]

    def _encode(self, sequences: Sequence[Arrays]) -> list[dict[str, Array]]:
        request = pb.EncodeRequest(
            named_sequences=[pb.NamedInputs(inputs=_named(sequence)) for sequence in sequences],
            output_names=self._outputs,
        )
        reply = self._stub.Encode(request, timeout=_TIMEOUT_SECONDS)
        return [_arrays(encoding) for encoding in reply.encodings]


@contextmanager
def serving(folder: Path, outputs: Sequence[str]) -> Iterator[Served]:
    """Serve the folder on this machine's CPU, for a process of its own kind only: on a socket in a
    folder that nobody else may read. Raises `ModelError` if it can't be served."""
    with tempfile.TemporaryDirectory(prefix="bilstm-") as sockets, _quiet():
        settings = Settings.model_validate(
            {
                "model": [("model", folder)],
                "host": f"unix:{sockets}/socket",
                "metrics_port": 0,
                "device": "cpu",
                "max_whole_tokens": SLICED_BEYOND,
            }
        )
        with _running(settings), grpc.insecure_channel(f"unix:{sockets}/socket") as channel:
            try:
                yield Served(encoder_pb2_grpc.EncoderServiceStub(channel), outputs)
            except grpc.RpcError as error:
                raise ModelError(f"{folder}: the server refused: {error.details()}") from error


@contextmanager
def _running(settings: Settings) -> Iterator[None]:
    """Run the server in a thread of its own: the caller's may have an event loop."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        try:
            async with App(settings) as app:
                await app.load()
                stop = asyncio.Event()
                started.set_result((asyncio.get_running_loop(), stop))
                await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="serve")
    thread.start()
    try:
        loop, stop = started.result()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the server's log, but for errors, out of what the caller prints; and afterwards leave
    the process's settings as they were."""
    was_configured, before = structlog.is_configured(), structlog.get_config()
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        if was_configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def _named(sequence: Arrays) -> list[pb.NamedTensor]:
    return [pb.NamedTensor(name=k, tensor=tensors.encode(array)) for k, array in sequence.items()]


def _chunks(sequences: Sequence[Arrays]) -> Iterator[pb.SequenceChunk]:
    """The parts of all sequences, one of each in turn."""
    begun = {number: (sequence, count(), 0) for number, sequence in enumerate(sequences)}
    while begun:
        for number, (sequence, turns, start) in list(begun.items()):
            steps = len(next(iter(sequence.values())))
            stop = min(start + _CHUNK_STEPS[next(turns) % len(_CHUNK_STEPS)], steps)
            part = {name: array[start:stop] for name, array in sequence.items()}
            yield pb.SequenceChunk(id=number, inputs=_named(part), last=stop == steps)
            begun[number] = (sequence, turns, stop)
            if stop == steps:
                del begun[number]


def _arrays(encoding: pb.Encoding) -> dict[str, Array]:
    arrays = {named.name: tensors.decode(named.tensor) for named in encoding.named}
    for field, value in encoding.ListFields():
        if field.name == "state":
            arrays |= {k: tensors.decode(getattr(value, k)) for k in ("hidden", "cell")}
        elif field.name != "named":
            arrays[field.name] = tensors.decode(value)
    return arrays


def _joined(parts: Sequence[Arrays]) -> dict[str, Array]:
    """The rows of all parts, one below the other; what has one part is that."""
    names = dict.fromkeys(name for part in parts for name in part)
    found = {name: [part[name] for part in parts if name in part] for name in names}
    return {k: own[0] if len(own) == 1 else np.concatenate(own) for k, own in found.items()}
