"""A fake server of EncodeStream, for tests that must decide when it answers, and when it breaks.

It is a real gRPC server that encodes nothing: a sequence's states are the sums of its steps so far,
its labels are the numbers of its steps, and its `halves` those of every second one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client.types import Array
from tests.support.waiting import HANGS_AFTER_SECONDS

INPUT_SIZE = 5


def sums(x: Array) -> Array:
    """What the fake makes of a sequence."""
    return np.cumsum(x, axis=0, dtype=np.float32)


INFOS = {
    "states": pb.OutputInfo(name="states", per_step=True, width=INPUT_SIZE),
    "final": pb.OutputInfo(name="final", width=INPUT_SIZE),
    "labels": pb.OutputInfo(name="labels", per_step=True, ids=2, labels=["even", "odd"]),
    "halves": pb.OutputInfo(
        name="halves", per_step=True, ids=100, windows=[pb.Window(add=-1, stride=2)]
    ),
}


@dataclass
class Break:
    """A call ends with this status once it has had so many requests or sent so many replies."""

    replies: int | None = None  # the first says that the stream is open
    requests: int | None = None  # less the first, which opens it
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE


@dataclass
class Call:
    options: pb.StreamOptions
    requests: list[pb.EncodeStreamRequest] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def steps(self, sequence_id: int) -> int:
        """How many of the sequence it has had."""
        return sum(
            chunk.steps.shape[0]
            for request in self.requests
            for chunk in request.chunks
            if chunk.id == sequence_id and chunk.HasField("steps")
        )


class FakeServer(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.breaks: list[Break | None] = []  # of the calls to come, one after the other
        self.versions = ["1"]  # that answer the calls to come, the last one all others
        self.reply_steps = 1_000_000  # at most in one reply
        self.pairs_reversed = False  # answer every other sequence before the one before it
        self.answers = threading.Event()  # whether it answers, or waits
        self.answers.set()
        self.completed = threading.Semaphore(0)  # released for each sequence that has come
        self.answered = 0
        self.is_healthy = False  # whether it answers as to its health
        self.is_serving = True  # what it answers
        self.health_answers = threading.Event()  # when it answers
        self.health_answers.set()
        self.checked = threading.Semaphore(0)  # released for each question

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if self.is_healthy and handler_call_details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(self._check)
        if handler_call_details.method != "/bilstm.v1.EncoderService/EncodeStream":
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=pb.EncodeStreamRequest.FromString,
            response_serializer=pb.EncodeStreamResponse.SerializeToString,
        )

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.checked.release()
        assert self.health_answers.wait(HANGS_AFTER_SECONDS)
        health = health_pb2.HealthCheckResponse
        status = health.SERVING if self.is_serving else health.NOT_SERVING
        return bytes(health(status=status).SerializeToString())

    def _stream(
        self, requests: Iterator[pb.EncodeStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.EncodeStreamResponse]:
        call = Call(next(requests).options)
        context.add_callback(call.ended.set)
        self.calls.append(call)
        script = (self.breaks.pop(0) if self.breaks else None) or Break()
        version = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]

        def check(count: int, most: int | None) -> None:
            if count == most:
                context.abort(script.code, "as the script says")

        def counted() -> Iterator[pb.EncodeStreamRequest]:
            for count, request in enumerate(iter(arrived.get, None), 1):
                call.requests.append(request)
                yield request
                check(count, script.requests)

        arrived: SimpleQueue[pb.EncodeStreamRequest | None] = SimpleQueue()
        threading.Thread(target=self._read, args=(requests, arrived)).start()
        check(0, script.replies)
        opened = pb.StreamOpened(model="fake", version=version)
        opened.outputs.extend(INFOS[name] for name in call.options.output_names)
        yield pb.EncodeStreamResponse(opened=opened)
        sent = 1
        for chunk in self._answers(call.options, counted()):
            assert self.answers.wait(HANGS_AFTER_SECONDS)
            check(sent, script.replies)
            self.answered += chunk.last
            yield pb.EncodeStreamResponse(chunks=[chunk])
            sent += 1
        check(sent, script.replies)

    def _read(
        self,
        requests: Iterator[pb.EncodeStreamRequest],
        arrived: SimpleQueue[pb.EncodeStreamRequest | None],
    ) -> None:
        """In a thread of its own: it reads on while it waits with its answers."""
        try:
            for request in requests:
                arrived.put(request)
                for chunk in request.chunks:
                    if chunk.last:
                        self.completed.release()
        except Exception:  # how a cancelled call ends
            return
        finally:
            arrived.put(None)

    def _answers(
        self, options: pb.StreamOptions, requests: Iterator[pb.EncodeStreamRequest]
    ) -> Iterator[pb.EncodingChunk]:
        if options.HasField("live"):
            yield from self._live(options.live, requests)
            return
        held: list[pb.EncodingChunk] = []
        for sequence_id, x in self._sequences(requests):
            answer = list(self._answer(options, sequence_id, x))
            if self.pairs_reversed and options.any_order and not held:
                held = answer
                continue
            yield from answer
            yield from held
            held = []
        yield from held

    def _sequences(self, requests: Iterator[pb.EncodeStreamRequest]) -> Iterator[tuple[int, Array]]:
        parts: list[Array] = []
        for request in requests:
            for chunk in request.chunks:
                if chunk.HasField("steps"):
                    parts.append(tensors.decode(chunk.steps))
                if chunk.last:
                    yield chunk.id, np.concatenate(parts or [np.empty((0, INPUT_SIZE), "f4")])
                    parts = []

    def _answer(
        self, options: pb.StreamOptions, sequence_id: int, x: Array
    ) -> Iterator[pb.EncodingChunk]:
        if x.ndim != 2 or x.shape[1] != INPUT_SIZE or not len(x):
            error = pb.SequenceError(
                code=3,
                message="steps.shape: must be [T, 5]",
                field="steps.shape",
                expected=f"must be [T, 5], got {list(x.shape)}",
            )
            yield pb.EncodingChunk(id=sequence_id, last=True, error=error)
            return
        states = sums(x)
        for start in range(0, len(states), self.reply_steps):
            part = states[start : start + self.reply_steps]
            last = start + len(part) == len(states)
            encoding = pb.Encoding(named=_rows(options.output_names, start, start + len(part)))
            if not options.output_names or "states" in options.output_names:
                encoding.states.CopyFrom(tensors.encode(part))
            if last and (pb.OUTPUT_FINAL in options.outputs or "final" in options.output_names):
                encoding.final.CopyFrom(tensors.encode(states[-1]))
            yield pb.EncodingChunk(
                id=sequence_id,
                first_step=start,
                encoding=encoding,
                last=last,
                forward_exact=True,
                reverse_exact=True,
            )

    def _live(
        self, live: pb.Live, requests: Iterator[pb.EncodeStreamRequest]
    ) -> Iterator[pb.EncodingChunk]:
        """Each block's own sums, once the steps after it have come."""
        block, context = live.block_steps, live.lookahead_steps
        x, done = np.empty((0, INPUT_SIZE), "f4"), 0
        for request in requests:
            for chunk in request.chunks:
                if chunk.HasField("steps"):
                    x = np.concatenate([x, tensors.decode(chunk.steps)])
                while done + block + context <= len(x) or (chunk.last and done < len(x)):
                    part = sums(x[done : done + block])
                    yield pb.EncodingChunk(
                        id=chunk.id,
                        first_step=done,
                        encoding=pb.Encoding(states=tensors.encode(part)),
                        forward_exact=True,
                    )
                    done += len(part)
                if chunk.last:
                    yield pb.EncodingChunk(id=chunk.id, first_step=done, last=True)
                    x, done = x[:0], 0


def _rows(names: Iterable[str], start: int, stop: int) -> Iterator[pb.NamedTensor]:
    """The labels and halves of these steps, of those that were asked for."""
    steps = np.arange(start, stop, dtype="<i4")
    rows = {"labels": steps % 2, "halves": steps[steps % 2 == 0] % 100}
    for name in rows.keys() & set(names):
        yield pb.NamedTensor(name=name, tensor=tensors.encode(rows[name]))


@contextmanager
def serving(fake: FakeServer, port: int = 0) -> Iterator[str]:
    """Runs the fake; gives its address."""
    with ThreadPoolExecutor(8) as pool:
        options = [("grpc.max_receive_message_length", 4 * 1024 * 1024), ("grpc.so_reuseport", 0)]
        server = grpc.server(pool, [fake], options=options)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield f"127.0.0.1:{bound}"
        finally:
            fake.answers.set()
            fake.health_answers.set()
            server.stop(None).wait()
