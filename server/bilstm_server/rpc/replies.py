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
    last = max((r.timing for r in results), key=lambda t: t.queue_seconds + t.compute_seconds)
    return pb.EncodeResponse(
        model=model.name,
        version=model.version,
        encodings=[_encoding(result.output, dtype) for result in results],
        timing=_timing(last),
    )


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


def _encoding(output: SequenceOutput, dtype: np.dtype[np.generic]) -> pb.Encoding:
    message = pb.Encoding()
    for name, array in output.arrays.items():
        getattr(message, name.value).MergeFrom(_tensor(array, dtype))
    if output.state is not None:
        hidden, cell = output.state
        message.state.hidden.MergeFrom(_tensor(hidden, dtype))
        message.state.cell.MergeFrom(_tensor(cell, dtype))
    return message


def _tensor(array: Array, dtype: np.dtype[np.generic]) -> pb.Tensor:
    with np.errstate(over="ignore"):  # beyond float16's range is infinity
        return tensors.encode(array.astype(dtype, copy=False))


def _timing(timing: BatchTiming) -> pb.Timing:
    message = pb.Timing(batch_sequences=timing.batch_sequences, batch_tokens=timing.batch_tokens)
    message.queue.FromTimedelta(timedelta(seconds=timing.queue_seconds))
    message.compute.FromTimedelta(timedelta(seconds=timing.compute_seconds))
    return message
