"""`EncoderService`: from a decoded request to the batcher and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from ..errors import ServiceError
from ..metrics import DropMetrics, Metrics
from ..serving.registry import ModelRegistry
from ..settings import RequestLimits
from .deadline import Deadline
from .interceptors import current_call
from .internal import Context
from .messages import EncodeRequest, EncodeStreamRequest
from .replies import encode_response, model_message
from .requests import parse_encode_request
from .status import drop_reason
from .streams.admission import Streams
from .untaken import UntakenReplies

_LARGE_BYTES = 1024 * 1024  # of a reply, that to copy takes a while


class EncoderService(encoder_pb2_grpc.EncoderServiceServicer):
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

    def admit(self) -> None:
        """Raise what any `Encode` would be told now: saying so before it is read costs little."""
        try:
            self._registry.check_room()
        except ServiceError as error:
            self._registry.drops(self._metrics.no_model).drop(drop_reason(error))
            raise

    async def Encode(  # type: ignore[override]
        self, request: EncodeRequest, context: Context
    ) -> bytes:  # an EncodeResponse's: built as a message, its tensors would be copied four times
        deadline = Deadline.of(context)
        metrics: DropMetrics = self._metrics.no_model
        call = current_call.get()
        trace = call.trace
        try:
            model = self._registry.get(request.model, request.version)
            metrics = model.metrics
            if trace is not None:
                trace.model = model.name
            parsed = parse_encode_request(request, model.config, self._limits)
            del request
            call.reply = self._replies.begin(context, parsed.reply_bytes, metrics)
            results = await model.batcher.submit(parsed.sequences, deadline.at, trace)
            if trace is not None:
                trace.enter("encode", asyncio.get_running_loop().time())
            if parsed.reply_bytes > _LARGE_BYTES:
                reply = await asyncio.to_thread(encode_response, model, results, parsed.reply_dtype)
            else:
                reply = encode_response(model, results, parsed.reply_dtype)
            call.reply.give()
            return reply
        except asyncio.CancelledError:
            metrics.drop("expired" if deadline.ended() else "cancelled")
            raise
        except Exception as error:
            metrics.drop(drop_reason(error))
            raise

    async def EncodeStream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> AsyncGenerator[bytes]:  # EncodeStreamResponses', as above
        async with aclosing(self._streams.serve(request_iterator, context)) as messages:
            async for message in messages:
                yield message

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[model_message(model, self._limits) for model in self._registry.all()]
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        model = self._registry.get(request.model, request.version)
        return pb.GetModelResponse(model=model_message(model, self._limits))
