"""`AsyncClient`: `Client` with every method awaited. All but the calls is in `_core`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from . import _core
from ._aio_client_streams import AioClientStreams
from ._base import (
    CHANNEL_OPTIONS,
    DEFAULT_MODEL,
    DEFAULT_TIMEOUT_SECONDS,
    NO_SEQUENCES,
    ModelKey,
)
from .errors import Cancelled
from .types import DataTypeName, Encoding, InitialState, Model, OutputName


class AsyncClient(AioClientStreams):
    """Encodes sequences on a server, from one event loop. Make one and keep it: it holds the
    connection. Its methods are `Client`'s.
    """

    def __init__(self, target: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """As `Client`'s. Nothing is opened until the first call."""
        super().__init__(target, timeout_seconds)
        self._channel: grpc.aio.Channel | None = None
        self._stub: encoder_pb2_grpc.EncoderServiceAsyncStub | None = None

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection: calls that wait end as `Cancelled`, and so do streams, with their
        tasks; later ones as `ValueError`."""
        self._closed = True
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
        options = _core.EncodeOptions.of(outputs, output_data_type, model, version)
        batch = _core.Batch.of(sequences, initial_states)
        encodings: list[Encoding] = []
        for part in batch.parts(options, await self._described(batch, options, timeout)):
            with self.calling(options.model_key, part):
                response = await self._connected().Encode(
                    batch.request(part, options), timeout=give_up_at - time.monotonic()
                )
            encodings += _core.encodings(response)
        return encodings

    async def is_ready(self, *, timeout_seconds: float | None = None) -> bool:
        """See `Client.is_ready`."""
        timeout = self._begin(timeout_seconds)
        with self.calling():
            health: Any = health_pb2_grpc.HealthStub(self._connection())
            response = await health.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The models this server has, the default one first."""
        timeout = self._begin(timeout_seconds)
        with self.calling():
            response = await self._connected().ListModels(pb.ListModelsRequest(), timeout=timeout)
        return [_core.model(message) for message in response.models]

    async def get_model(
        self, name: str = "", version: str = "", *, timeout_seconds: float | None = None
    ) -> Model:
        """One model; empty: the default one, its newest version."""
        timeout = self._begin(timeout_seconds)
        with self.calling((name, version)):
            response = await self._connected().GetModel(
                pb.GetModelRequest(model=name, version=version), timeout=timeout
            )
        return _core.model(response.model)

    def _connection(self) -> grpc.aio.Channel:
        self._check_open()
        if self._channel is None:  # not in the constructor: it belongs to the loop that runs
            self._channel = grpc.aio.insecure_channel(self.target, options=CHANNEL_OPTIONS)
        return self._channel

    def _connected(self) -> encoder_pb2_grpc.EncoderServiceAsyncStub:
        channel = self._connection()
        if self._stub is None:
            self._stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        return self._stub

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
        self, batch: _core.Batch, options: _core.EncodeOptions, timeout_seconds: float
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
