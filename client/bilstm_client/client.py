"""`Client`: the blocking client. All but the calls themselves is in `_core`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

import grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from . import _core
from .errors import typed_errors
from .types import DataTypeName, Encoding, Model, OutputName, State


class Client:
    """Encodes sequences on a server. Make one and keep it: it holds the connection, which
    threads may share.
    """

    def __init__(
        self, target: str, *, timeout_seconds: float = _core.DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        """`target`: `host:port`, or any name gRPC resolves. `timeout_seconds`: of a call that
        sets none. Nothing is sent until the first call."""
        self._channel = grpc.insecure_channel(target, options=_core.CHANNEL_OPTIONS)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)
        self._timeout_seconds = timeout_seconds
        self._models: dict[tuple[str, str], Model] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that wait are cancelled."""
        self._channel.close()

    def encode(
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
        """Encode one sequence: [T, input_size] numbers, or [T] token ids.

        `sequence`: an ndarray of any layout, a torch tensor, or nested lists. `outputs`: what
        to compute of it. `model`, `version`: empty for the server's default and newest.

        Raises `EncoderError`s, and `TypeError` or `ValueError` for what is no such sequence.
        """
        (encoding,) = self.encode_batch(
            [sequence],
            outputs=outputs,
            initial_states=None if initial_state is None else [initial_state],
            model=model,
            version=version,
            output_data_type=output_data_type,
            timeout_seconds=timeout_seconds,
        )
        return encoding

    def encode_batch(
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
        """Encode many sequences, each as `encode` takes it; the results are in their order.

        One RPC, or as few as the server's limits need. `initial_states`: one per sequence.
        `timeout_seconds` is for all of it.
        """
        timeout = self._timeout(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        options = _core.EncodeOptions(outputs, model, version, output_data_type)
        batch = _core.Batch.of(sequences, initial_states)
        encodings: list[Encoding] = []
        for part in batch.parts(options, self._described(batch, options, timeout)):
            with typed_errors(part.start):
                response = self._stub.Encode(
                    batch.request(part, options), timeout=give_up_at - time.monotonic()
                )
            encodings += _core.encodings(response)
        return encodings

    def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The models this server has, the default one first."""
        with typed_errors():
            response = self._stub.ListModels(
                pb.ListModelsRequest(), timeout=self._timeout(timeout_seconds)
            )
        return [_core.model(message) for message in response.models]

    def get_model(
        self, name: str = "", version: str = "", *, timeout_seconds: float | None = None
    ) -> Model:
        """One model; empty: the default one, its newest version."""
        with typed_errors():
            response = self._stub.GetModel(
                pb.GetModelRequest(model=name, version=version),
                timeout=self._timeout(timeout_seconds),
            )
        return _core.model(response.model)

    def _timeout(self, timeout_seconds: float | None) -> float:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds

    def _described(
        self, batch: _core.Batch, options: _core.EncodeOptions, timeout: float
    ) -> Model | None:
        """The model whose limits the batch must keep, asked for once; None for one sequence,
        which can't be cut."""
        if len(batch.arrays) <= 1:
            return None
        key = (options.model, options.version)
        if key not in self._models:
            self._models[key] = self.get_model(*key, timeout_seconds=timeout)
        return self._models[key]
