"""What the batcher gives -> EncodeResponse and Model messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from ..batching.batcher import BatchTiming, Result
from ..batching.sequence import Array, SequenceOutput
from .registry import ServedModel
from .requests import OUTPUTS, RequestLimits


def encode_response(
    model: ServedModel, results: Sequence[Result], dtype: np.dtype[np.generic]
) -> pb.EncodeResponse:
    """`dtype`: of the reply's tensors."""
    response = pb.EncodeResponse(model=model.name, version=model.version)
    for result in results:
        _fill_encoding(response.encodings.add(), result.output, dtype)
    last = max((r.timing for r in results), key=lambda t: t.queue_seconds + t.compute_seconds)
    _fill_timing(response.timing, last)
    return response


def model_message(model: ServedModel, limits: RequestLimits) -> pb.Model:
    config = model.config
    return pb.Model(
        name=model.name,
        version=model.version,
        input_size=config.input_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        proj_size=config.proj_size,
        bidirectional=config.bidirectional,
        num_embeddings=config.embedding.num_embeddings if config.embedding else 0,
        num_classes=config.head.num_classes if config.head else 0,
        labels=config.labels,
        outputs=[
            pb.Output.ValueType(number)
            for number in OUTPUTS
            if config.head or number != pb.OUTPUT_LOGITS
        ],
        limits=pb.Limits(
            max_message_bytes=limits.max_message_bytes,
            max_sequence_tokens=limits.max_sequence_tokens,
            max_request_sequences=limits.max_request_sequences,
            max_request_tokens=limits.max_request_tokens,
        ),
    )


def _fill_encoding(
    message: pb.Encoding, output: SequenceOutput, dtype: np.dtype[np.generic]
) -> None:
    for name, array in output.arrays.items():
        _fill_tensor(getattr(message, name.value), array, dtype)
    if output.state is not None:
        hidden, cell = output.state
        _fill_tensor(message.state.hidden, hidden, dtype)
        _fill_tensor(message.state.cell, cell, dtype)


def _fill_tensor(message: pb.Tensor, array: Array, dtype: np.dtype[np.generic]) -> None:
    with np.errstate(over="ignore"):  # beyond float16's range is infinity
        tensors.encode(array.astype(dtype, copy=False), into=message)


def _fill_timing(message: pb.Timing, timing: BatchTiming) -> None:
    message.queue.FromTimedelta(timedelta(seconds=timing.queue_seconds))
    message.compute.FromTimedelta(timedelta(seconds=timing.compute_seconds))
    message.batch_sequences = timing.batch_sequences
    message.batch_tokens = timing.batch_tokens
