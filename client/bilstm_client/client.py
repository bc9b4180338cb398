"""`Client`: the blocking client. All but the calls themselves is in `_calls.messages`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
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
from ._streams.methods import ClientStreams
from .errors import EncoderError, Unavailable
from .types import DataTypeName, Encoding, InitialState, Model, OutputName


class Client(ClientStreams):
    """Encodes sequences on a server. Make one and keep it: it holds the connection, which
    threads may share.
    """

    def __init__(self, target: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """`target`: `host` or `host:port` (50051 unless given), `[ipv6]:port`, or `unix:path`. Of
        several servers, `ipv4:address:port,address:port` or `dns:///host`, each call takes the
        next one that is ready. `timeout_seconds`: of a call that sets none. Nothing is sent until
        the first call. A proxy that the environment names is used for neither loopback nor
        several addresses."""
        super().__init__(target, timeout_seconds)
        self._channel = self._open_channel()
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection: calls that wait end as `Cancelled`, and so do streams, with their
        threads; later ones as `ValueError`."""
        self._closed = True
        if self.is_inherited:
            return
        for stream in list(self.streams):
            stream.end()
        self._channel.close()

    def encode(
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
        """Encode one sequence of T steps: [T, input_size] numbers, or [T] token ids.

        `sequence`: an ndarray of any layout, a torch tensor, or nested lists. float64 becomes
        float32, and inf where it is beyond its range. A NaN passes through to the results, and
        stays in its own sequence.

        `outputs`: what to compute; each is an array of the result, where P is proj_size or
        hidden_size, and K is 2 for a bidirectional model, else 1.
        - `states` [T, K*P]: the top layer's output at every step
        - `final` [K*P]: forward's last and reverse's first step, joined
        - `mean`, `max` [K*P]: over the steps
        - `logits` [classes]: the head's scores, if the model has a head
        - `state`: a `State`, hidden [layers*K, P] and cell [layers*K, H], after the last step

        `initial_state`: a `State`, or a plain (hidden, cell) pair of these shapes; None: zeros.
        With the `state` of one piece as the next one's `initial_state`, a unidirectional model
        encodes a sequence in pieces exactly. A bidirectional one does not: the reverse direction
        has not seen what comes later.

        `model`, `version`: empty for the server's default and newest. `output_data_type`: of
        every array of the result. `timeout_seconds`: None for the client's own.

        Raises `EncoderError`s; `TypeError` for what is not numbers, names or a state; and
        `ValueError` for unknown names, a timeout that is not finite, and a closed client.
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
        initial_states: Sequence[InitialState] | None = None,
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
        timeout_seconds: float | None = None,
    ) -> list[Encoding]:
        """Encode many sequences, each as `encode` takes it; the results are in their order.

        One RPC, or as few as the server's limits need. `initial_states`: one per sequence.
        `timeout_seconds` is for all of it. Raises what `encode` does; a sequence at fault is
        named by its index: `sequences[3]`.
        """
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        options = messages.EncodeOptions.of(outputs, output_data_type, model, version)
        batch = messages.Batch.of(sequences, initial_states)
        encodings: list[Encoding] = []
        for part in batch.parts(options, self._described(batch, options, timeout)):
            request = batch.request(part, options)
            with batch.explaining():
                response = self._call(
                    self._stub.Encode, request, give_up_at, options.model_key, part
                )
            with self.calling():
                encodings += batch.encodings(response, part, options)
        return encodings

    def is_ready(self, *, timeout_seconds: float | None = None) -> bool:
        """Whether the server says that it serves: its models are loaded, and it is not draining.

        Raises `Unavailable` where none answers; it is not tried again.
        """
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        try:
            return self._is_serving(self._channel, timeout)
        except Unavailable:
            if not self._address.is_balanced:
                raise
        # None that serves; is there one that answers?
        with self._open_channel(checked=False) as channel:
            return self._is_serving(channel, give_up_at - time.monotonic())

    def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The models this server has, the default one first."""
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        response = self._call(self._stub.ListModels, pb.ListModelsRequest(), give_up_at)
        return [messages.model(message) for message in response.models]

    def get_model(
        self, name: str = "", version: str = "", *, timeout_seconds: float | None = None
    ) -> Model:
        """One model; empty: the default one, its newest version."""
        timeout = self._begin(timeout_seconds)
        give_up_at = time.monotonic() + timeout
        request = pb.GetModelRequest(model=name, version=version)
        response = self._call(self._stub.GetModel, request, give_up_at, (name, version))
        return messages.model(response.model)

    def _call(
        self,
        method: Any,
        request: Message,
        give_up_at: float,
        key: ModelKey = DEFAULT_MODEL,
        part: slice = NO_SEQUENCES,
    ) -> Any:
        """One RPC, sent again where a server did not serve it."""
        attempts = Attempts(self._retries, give_up_at)
        while True:
            try:
                with self.calling(key, part):
                    reply = method(request, timeout=give_up_at - time.monotonic())
                    response = self._readable(reply)
            except EncoderError as error:
                self._attempted(attempts, error)
            else:
                self._retries.served()
                return response
            while seconds := self._pause(attempts):
                time.sleep(seconds)

    def _open_channel(self, *, checked: bool = True) -> grpc.Channel:
        options = channel_options(self._address, checked=checked)
        return grpc.insecure_channel(self._address.name, options=options)

    def _is_serving(self, channel: grpc.Channel, timeout_seconds: float) -> bool:
        health: Any = health_pb2_grpc.HealthStub(channel)
        with self.calling():
            response = self._readable(health.Check(ANY_SERVICE, timeout=timeout_seconds))
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def _described(
        self, batch: messages.Batch, options: messages.EncodeOptions, timeout: float
    ) -> Model | None:
        """The model whose limits the batch must keep, asked for once; None for one sequence,
        which can't be cut."""
        if len(batch.arrays) <= 1:
            return None
        model = self._models.get(options.model_key)
        if model is None:
            model = self.get_model(*options.model_key, timeout_seconds=timeout)
            self._models[options.model_key] = model
        return model
