"""`EncoderService`: from a decoded request to the batcher and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc

from ..metrics import DropMetrics, Metrics
from .deadline import Deadline
from .interceptors import current_trace
from .internal import Context
from .registry import ModelRegistry
from .replies import encode_response, model_message
from .requests import RequestLimits, parse_encode_request
from .status import drop_reason
from .streams import Streams


class EncoderService(encoder_pb2_grpc.EncoderServiceServicer):
    def __init__(
        self,
        registry: ModelRegistry,
        limits: RequestLimits,
        metrics: Metrics,
        streams: Streams,
    ):
        self._streams = streams
        self._registry = registry
        self._limits = limits
        self._metrics = metrics

    async def Encode(  # type: ignore[override]
        self, request: pb.EncodeRequest, context: Context
    ) -> bytes:  # an EncodeResponse's: built as a message, its tensors would be copied four times
        deadline = Deadline.of(context)
        metrics: DropMetrics = self._metrics.no_model
        trace = current_trace.get()
        try:
            model = self._registry.get(request.model, request.version)
            metrics = model.metrics
            if trace is not None:
                trace.model = model.name
            parsed = parse_encode_request(request, model.config, self._limits)
            del request  # its bytes have been copied; those who wait need no second copy
            results = await model.batcher.submit(parsed.sequences, deadline.at, trace)
            if trace is not None:
                trace.enter("encode", asyncio.get_running_loop().time())
            return encode_response(model, results, parsed.reply_dtype)
        except asyncio.CancelledError:
            metrics.drop("expired" if deadline.ended() else "cancelled")
            raise
        except Exception as error:
            metrics.drop(drop_reason(error))
            raise

    async def EncodeStream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.EncodeStreamRequest], context: Context
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
