"""`EncoderService`: from a decoded request to the batcher and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from ...errors import ServiceError
from ...metrics import DropMetrics, Metrics
from ...serving.registry import ModelRegistry
from ...settings import RequestLimits
from ..context import Context
from ..deadline import Deadline
from ..definitions import ServiceDefinition, TensorMethod
from ..flow.untaken import UntakenReplies
from ..interceptors.outcomes import current_call
from ..status import drop_reason
from .descriptions import model_message, requested_infos
from .messages import EncodeRequest, EncodeStreamRequest
from .reader import decode_stream_request, encode_request_decoder
from .replies import encode_response
from .requests import parse_encode_request
from .streams.opening import Streams

_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["EncoderService"]
_LARGE_BYTES = 1024 * 1024  # of a reply, that to copy takes a while


class EncoderService(encoder_pb2_grpc.EncoderServiceServicer):
    """Serves `bilstm.v1.EncoderService`."""

    def __init__(
        self,
        registry: ModelRegistry,
        limits: RequestLimits,
        metrics: Metrics,
        streams: Streams,
        replies: UntakenReplies,
    ):
        self._streams = streams
        self._replies = replies
        self._registry = registry
        self._limits = limits
        self._metrics = metrics

    def definition(self) -> ServiceDefinition:
        """Tell the server of the service."""
        return ServiceDefinition(
            descriptor=_DESCRIPTOR,
            add_to=partial(encoder_pb2_grpc.add_EncoderServiceServicer_to_server, self),
            tensor_methods={
                "Encode": TensorMethod(encode_request_decoder(self._limits), self._check_door),
                "EncodeStream": TensorMethod(decode_stream_request),
            },
        )

    def _check_door(self) -> None:
        """Raise what any `Encode` of the caller would get now. Saying so before the request is read
        costs little."""
        call = current_call.get()
        try:
            self._registry.check_room(call.caller, call.priority)
        except ServiceError as error:
            self._registry.drops(self._metrics.no_model).drop(drop_reason(error), call.caller.name)
            raise

    async def Encode(  # type: ignore[override]
        self, request: EncodeRequest, context: Context
    ) -> bytes:  # an EncodeResponse's: built as a message, its tensors would be copied four times
        """Encode the sequences of one request. All of them get a result, or the call fails."""
        deadline = Deadline.of(context)
        metrics: DropMetrics = self._metrics.no_model
        call = current_call.get()
        trace = call.trace
        try:
            model = self._registry.get(request.model, request.version, call.caller.models)
            metrics = model.metrics
            if trace is not None:
                trace.model = model.name
            parsed = parse_encode_request(request, model.config, self._limits)
            del request
            size = parsed.reply_bytes + sum(map(len, requested_infos(model, parsed.outputs)))
            call.reply = self._replies.begin(context, size, metrics)
            results = await model.batcher.submit(
                parsed.sequences, deadline.at, trace, call.caller.name, call.priority
            )
            if trace is not None:
                trace.enter("encode", asyncio.get_running_loop().time())
            if parsed.reply_bytes > _LARGE_BYTES:
                reply = await asyncio.to_thread(encode_response, model, results, parsed.reply_dtype)
            else:
                reply = encode_response(model, results, parsed.reply_dtype)
            call.reply.give()
            return reply
        except asyncio.CancelledError:
            metrics.drop("expired" if deadline.ended() else "cancelled", call.caller.name)
            raise
        except Exception as error:
            metrics.drop(drop_reason(error), call.caller.name)
            raise

    async def EncodeStream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> AsyncGenerator[bytes]:  # EncodeStreamResponses', as above
        """Encode the sequences of one stream, each of which gets a result or an error of its
        own."""
        async with aclosing(self._streams.serve(request_iterator, context)) as messages:
            async for message in messages:
                yield message

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """Describe all models that the caller may use, the default one first."""
        models = self._registry.all(current_call.get().caller.models)
        return pb.ListModelsResponse(
            models=[model_message(model, self._limits) for model in models]
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describe one model."""
        caller = current_call.get().caller
        model = self._registry.get(request.model, request.version, caller.models)
        return pb.GetModelResponse(model=model_message(model, self._limits))
