"""`AsyncClient`: `Client` with every method awaited. All but the calls is in `_calls.messages`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from ._calls import messages
from ._calls.channel import ANY_SERVICE, channel_options
from ._calls.connection import DEFAULT_MODEL, DEFAULT_TIMEOUT_SECONDS, NO_SEQUENCES, ModelKey
from ._calls.retries import Attempts
from ._streams.aio_methods import AioClientStreams
from .errors import Cancelled, EncoderError, Unavailable
from .types import DataTypeName, Encoding, InitialState, Model, OutputName


class AsyncClient(AioClientStreams):
    """Encodes sequences on a server, from one event loop. Make one and keep it: it holds the
    connection. Its methods are `Client`'s.
    """

    def __init__(self, target: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """As `Client`'s. Nothing is opened until the first call, in whose event loop it works; once
        that is closed, as `asyncio.run` does at its end, in the next one's."""
        super().__init__(target, timeout_seconds)
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the channel's
        self._stub: encoder_pb2_grpc.EncoderServiceAsyncStub | None = None

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection: calls that wait end as `Cancelled`, and so do streams, with their
        tasks; later ones as `ValueError`."""
        if not self.is_inherited:
            self._check_loop()
        self._closed = True
        if self.is_inherited or self._loop is not asyncio.get_running_loop():
            return  # there is nothing of this process or loop
        for stream in list(self.streams):
            await stream.end()
        if self._channel is not None:
            await self._channel.close()

    async def encode(
        self,
        sequence: Any,
        *,
        outputs: Sequence[OutputName] = ("states",),
        initial_state: InitialState | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
    ) -> Encoding:
        """See `Client.encode`."""
        (encoding,) = await self.encode_batch(
            [sequence],
            outputs=outputs,
            initial_states=None if initial_state is None else [initial_state],
            model=model,
            version=version,
            output_data_type=output_data_type,
            timeout_seconds=timeout_seconds,
        )
        return encoding

    async def encode_batch(
        self,
        sequences: Iterable[Any],
        *,
        outputs: Sequence[OutputName] = ("states",),
        initial_states: Sequence[InitialState] | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
    ) -> list[Encoding]:
        """See `Client.encode_batch`."""
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        options = messages.EncodeOptions.of(outputs, output_data_type, model, version)
        batch = messages.Batch.of(sequences, initial_states)
        encodings: list[Encoding] = []
        for part in batch.parts(options, await self._described(batch, options, timeout)):
            request = batch.request(part, options)
            with batch.explaining():
                response = await self._call("Encode", request, give_up_at, options.model_key, part)
            with self.calling():
                encodings += batch.encodings(response, part, options)
        return encodings

    async def is_ready(self, *, timeout_seconds: float | None = None) -> bool:
        """See `Client.is_ready`."""
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        try:
            return await self._is_serving(self._connection(), timeout)
        except Unavailable:
            if not self._address.is_balanced:
                raise
        # None that serves; is there one that answers?
        async with self._open_channel(checked=False) as channel:
            return await self._is_serving(channel, give_up_at - time.monotonic())

    async def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The models this server has, the default one first."""
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        response = await self._call("ListModels", pb.ListModelsRequest(), give_up_at)
        return [messages.model(message) for message in response.models]

    async def get_model(
        self, name: str = "", version: str = "", *, timeout_seconds: float | None = None
    ) -> Model:
        """One model; empty: the default one, its newest version."""
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        request = pb.GetModelRequest(model=name, version=version)
        response = await self._call("GetModel", request, give_up_at, (name, version))
        return messages.model(response.model)

    def _connection(self) -> grpc.aio.Channel:
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._channel is None or self._loop is not loop:
            self._check_loop()
            # Not in the constructor: it belongs to the loop that runs, and ends with it.
            self._channel, self._loop, self._stub = self._open_channel(), loop, None
        return self._channel

    def _check_loop(self) -> None:
        other = self._loop is not None and self._loop is not asyncio.get_running_loop()
        if self._loop is not None and other and not self._loop.is_closed():
            raise RuntimeError("the client is used by another event loop; make one for each loop")

    def _open_channel(self, *, checked: bool = True) -> grpc.aio.Channel:
        options = channel_options(self._address, checked=checked)
        return grpc.aio.insecure_channel(self._address.name, options=options)

    def _connected(self) -> encoder_pb2_grpc.EncoderServiceAsyncStub:
        channel = self._connection()
        if self._stub is None:
            self._stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        return self._stub

    async def _call(
        self,
        method: str,
        request: Message,
        give_up_at: float,
        key: ModelKey = DEFAULT_MODEL,
        part: slice = NO_SEQUENCES,
    ) -> Any:
        """As `Client`'s."""
        attempts = Attempts(self._retries, give_up_at)
        while True:
            try:
                with self.calling(key, part):
                    call = getattr(self._connected(), method)
                    reply = await call(request, timeout=give_up_at - time.monotonic())
                    response = self._readable(reply)
            except EncoderError as error:
                self._attempted(attempts, error)
            else:
                self._retries.served()
                return response
            seconds = self._pause(attempts)
            while seconds:
                await asyncio.sleep(seconds)
                seconds = self._pause(attempts)

    async def _is_serving(self, channel: grpc.aio.Channel, timeout_seconds: float) -> bool:
        health: Any = health_pb2_grpc.HealthStub(channel)
        with self.calling():
            call = health.Check(ANY_SERVICE, timeout=timeout_seconds)
            response = self._readable(await call)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    @contextmanager
    def calling(self, key: ModelKey = DEFAULT_MODEL, part: slice = NO_SEQUENCES) -> Iterator[None]:
        """As `BaseClient`'s; what is cancelled since the client was closed is `Cancelled`."""
        try:
            with super().calling(key, part):
                yield
        except asyncio.CancelledError as error:
            # Closing the channel cancels its calls, but not the tasks that wait for them.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise Cancelled(grpc.StatusCode.CANCELLED, "the client was closed") from error
            raise

    async def _described(
        self, batch: messages.Batch, options: messages.EncodeOptions, timeout_seconds: float
    ) -> Model | None:
        """The model whose limits the batch must keep, asked for once; None for one sequence,
        which can't be cut."""
        if len(batch.arrays) <= 1:
            return None
        model = self._models.get(options.model_key)
        if model is None:
            model = await self.get_model(*options.model_key, timeout_seconds=timeout_seconds)
            self._models[options.model_key] = model
        return model
