"""`AsyncClient`: `Client` with every method awaited. All but the calls is in `_core`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from . import _core
from .errors import Cancelled, typed_errors
from .types import DataTypeName, Encoding, Model, OutputName, State


class AsyncClient:
    """Encodes sequences on a server, from one event loop. Make one and keep it: it holds the
    connection. Its methods are `Client`'s.
    """

    def __init__(
        self, target: str, *, timeout_seconds: float = _core.DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        """As `Client`'s. Nothing is opened until `async with`."""
        self._target = target
        self._closed = False
        self._timeout_seconds = timeout_seconds
        self._models: dict[tuple[str, str], Model] = {}

    async def __aenter__(self) -> Self:
        # Here and not in the constructor: a channel belongs to the loop that runs.
        self._channel = grpc.aio.insecure_channel(self._target, options=_core.CHANNEL_OPTIONS)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that wait are cancelled."""
        self._closed = True
        await self._channel.close()

    async def encode(
        self,
        sequence: Any,
        *,
        outputs: Sequence[OutputName] = ("states",),
        initial_state: State | None = None,
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
        initial_states: Sequence[State] | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
    ) -> list[Encoding]:
        """See `Client.encode_batch`."""
        timeout = self._timeout(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        options = _core.EncodeOptions(outputs, model, version, output_data_type)
        batch = _core.Batch.of(sequences, initial_states)
        encodings: list[Encoding] = []
        for part in batch.parts(options, await self._described(batch, options, timeout)):
            with self._typed_errors(part.start):
                response = await self._stub.Encode(
                    batch.request(part, options), timeout=give_up_at - time.monotonic()
                )
            encodings += _core.encodings(response)
        return encodings

    async def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The models this server has, the default one first."""
        with self._typed_errors():
            response = await self._stub.ListModels(
                pb.ListModelsRequest(), timeout=self._timeout(timeout_seconds)
            )
        return [_core.model(message) for message in response.models]

    async def get_model(
        self, name: str = "", version: str = "", *, timeout_seconds: float | None = None
    ) -> Model:
        """One model; empty: the default one, its newest version."""
        with self._typed_errors():
            response = await self._stub.GetModel(
                pb.GetModelRequest(model=name, version=version),
                timeout=self._timeout(timeout_seconds),
            )
        return _core.model(response.model)

    @contextmanager
    def _typed_errors(self, first: int = 0) -> Iterator[None]:
        try:
            with typed_errors(first):
                yield
        except asyncio.CancelledError as error:
            # Closing the channel cancels its calls, but not the tasks that wait for them.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise Cancelled(grpc.StatusCode.CANCELLED, "the client was closed") from error
            raise

    def _timeout(self, timeout_seconds: float | None) -> float:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds

    async def _described(
        self, batch: _core.Batch, options: _core.EncodeOptions, timeout_seconds: float
    ) -> Model | None:
        """The model whose limits the batch must keep, asked for once; None for one sequence,
        which can't be cut."""
        if len(batch.arrays) <= 1:
            return None
        key = (options.model, options.version)
        if key not in self._models:
            self._models[key] = await self.get_model(*key, timeout_seconds=timeout_seconds)
        return self._models[key]
