"""`Flows`: what each method of a client does, as generators that yield the I/O they want and are
sent its outcome. So both clients run the same code, one blocking and one in an event loop.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from bilstm.v1 import encoder_pb2 as pb

from ..errors import (
    Cancelled,
    DeadlineExceeded,
    EncoderError,
    NotTrusted,
    Unauthenticated,
    Unavailable,
)
from ..types import Encoding, InitialState, Metadata, Model
from .batches import Batch
from .channel import ANY_SERVICE
from .messages import model
from .metadata import Headers
from .options import EncodeOptions
from .retries import Attempts
from .session import DEFAULT_MODEL, NO_SEQUENCES, Call, ModelKey, Session
from .status import broken_reply

T = TypeVar("T")
# While a server is waited for: between two questions, and how long each may take.
_WAIT_SECONDS, _QUESTION_SECONDS = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Send:
    """Wants a request to be sent. Its outcome is the reply, or grpc's error."""

    method: str
    request: Message
    timeout_seconds: float
    headers: Headers = field(repr=False)  # which may be secret
    to_any: bool = False  # also to a server that is not ready, over a connection of its own


@dataclass(frozen=True, slots=True)
class Pause:
    """Wants time to pass."""

    seconds: float


Flow = Generator[Send | Pause, Any, T]


class Flows:
    """One flow for each method of a client, which returns and raises what the method does."""

    def __init__(self, session: Session):
        self._session = session

    def encode(
        self,
        sequences: Iterable[Any],
        initial_states: Sequence[InitialState] | None,
        options: EncodeOptions,
        timeout_seconds: float | None,
        metadata: Metadata | None,
    ) -> Flow[list[Encoding]]:
        """One RPC, or as few as the server's limits need."""
        call = self._session.begin(timeout_seconds, metadata)
        batch = Batch.of(sequences, initial_states)
        limits = None
        if len(batch.sequences) > 1:  # one can't be cut
            limits = yield from self._remembered(options.model_key, call)
        encodings: list[Encoding] = []
        for part in batch.parts(options, limits):
            request, key = batch.request(part, options), options.model_key
            with batch.explaining():
                response = yield from self._call("Encode", request, call, key, part)
            with self._session.calling():
                encodings += batch.encodings(response, part, options)
        return encodings

    def list_models(
        self, timeout_seconds: float | None, metadata: Metadata | None
    ) -> Flow[list[Model]]:
        """All models of the server."""
        call = self._session.begin(timeout_seconds, metadata)
        response = yield from self._call("ListModels", pb.ListModelsRequest(), call)
        return [model(message) for message in response.models]

    def get_model(
        self, name: str, version: str, timeout_seconds: float | None, metadata: Metadata | None
    ) -> Flow[Model]:
        """One model."""
        return self._get_model((name, version), self._session.begin(timeout_seconds, metadata))

    def is_ready(self, timeout_seconds: float | None, metadata: Metadata | None) -> Flow[bool]:
        """What the server says of itself; not asked again."""
        return self._is_ready(self._session.begin(timeout_seconds, metadata))

    def wait_until_ready(
        self, timeout_seconds: float | None, metadata: Metadata | None
    ) -> Flow[None]:
        """Asks until the server says that it serves, or the time is over."""
        call = self._session.begin(timeout_seconds, metadata)
        while not self._session.is_closed:
            try:
                if (yield from self._is_ready(call.within(_QUESTION_SECONDS))):
                    return
                reason = "it says that it does not serve: it loads its models, or drains"
                error: EncoderError = Unavailable(grpc.StatusCode.UNAVAILABLE, reason)
            except NotTrusted:
                raise  # to wait would not mend it
            except (Unavailable, Cancelled, DeadlineExceeded) as failure:
                error = failure
            if call.seconds_left <= _WAIT_SECONDS:
                within = f"the server was not ready within {call.timeout_seconds:g} s"
                late = type(error)(error.code, f"{within}: {error.message}")
                late.retry_after_seconds = error.retry_after_seconds
                raise late from None
            yield Pause(_WAIT_SECONDS)
        raise self._session.closed_error()

    def _get_model(self, key: ModelKey, call: Call) -> Flow[Model]:
        request = pb.GetModelRequest(model=key[0], version=key[1])
        response = yield from self._call("GetModel", request, call, key)
        return model(response.model)

    def _remembered(self, key: ModelKey, call: Call) -> Flow[Model]:
        """The model whose limits a batch must keep, asked for once."""
        models = self._session.models
        if key not in models:
            models[key] = yield from self._get_model(key, call)
        return models[key]

    def _is_ready(self, call: Call) -> Flow[bool]:
        try:
            return (yield from self._is_serving(call))
        except Unavailable:
            if not self._session.address.is_balanced:
                raise
        # None of several serves; is there one that answers?
        return (yield from self._is_serving(call, to_any=True))

    def _is_serving(self, call: Call, to_any: bool = False) -> Flow[bool]:
        response = yield from self._attempt("Check", ANY_SERVICE, call, to_any=to_any)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def _call(
        self,
        method: str,
        request: Message,
        call: Call,
        key: ModelKey = DEFAULT_MODEL,
        part: slice = NO_SEQUENCES,
    ) -> Flow[Any]:
        """One RPC, sent again where a server did not serve it."""
        session = self._session
        attempts = Attempts(session.retries, call.deadline)
        while True:
            try:
                response = yield from self._attempt(method, request, call, key, part)
            except EncoderError as error:
                session.failed(attempts, error)
            else:
                session.retries.served()
                return response
            while pause := session.pause(attempts):
                yield Pause(pause)

    def _attempt(
        self,
        method: str,
        request: Message,
        call: Call,
        key: ModelKey = DEFAULT_MODEL,
        part: slice = NO_SEQUENCES,
        *,
        to_any: bool = False,
    ) -> Flow[Any]:
        """One RPC with the newest token. If it is refused, and there is another one by then, once
        more with that."""
        headers, renewed = call.sent_headers(), False
        while True:
            try:
                with self._session.calling(key, part):
                    send = Send(method, request, call.seconds_left, headers, to_any)
                    return _readable((yield send))
            except Unauthenticated:
                another = None if renewed else call.renewed_headers(headers)
                if another is None:
                    raise
                headers, renewed = another, True


def _readable(response: Any) -> Any:
    """A reply; gRPC gives None in the place of one that is not there, or can't be read."""
    if response is None:
        raise broken_reply("it is no message of this service")
    return response
