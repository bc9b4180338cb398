"""What the batcher gives -> a reply's bytes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from google.protobuf.duration_pb2 import Duration

from bilstm import tensors, wire
from bilstm.v1 import encoder_pb2 as pb

from ...batching.jobs import BatchTiming, Result
from ...engine.sequences import Array, SequenceOutput
from ...serving.registry import ServedModel
from .descriptions import requested_infos
from .requests import OUTPUTS

# Of the outputs that have a field of their own; the others are `named`.
_FIELDS = {
    output: pb.Encoding.DESCRIPTOR.fields_by_name[output].number for output in OUTPUTS.values()
}
_CHUNKS = pb.EncodeStreamResponse.CHUNKS_FIELD_NUMBER


def encode_response(
    model: ServedModel, results: Sequence[Result], dtype: np.dtype[np.generic]
) -> bytes:
    """Return an `EncodeResponse` as bytes, its tensors in `dtype`. An array that has that type is
    copied once."""
    last = max((r.timing for r in results), key=lambda t: t.queue_seconds + t.compute_seconds)
    head = pb.EncodeResponse(
        model=model.name,
        version=model.version,
        timing=_timing(last),
    )
    parts: list[wire.Part] = [head.SerializeToString()]
    for info in requested_infos(model, results[0].output.arrays):
        parts += wire.delimited(pb.EncodeResponse.OUTPUTS_FIELD_NUMBER, [info])
    for result in results:
        encoding = _encoding(result.output, dtype)
        parts += wire.delimited(pb.EncodeResponse.ENCODINGS_FIELD_NUMBER, encoding)
    return b"".join(parts)


def encoding_chunk(
    sequence_id: int,
    output: SequenceOutput,
    dtype: np.dtype[np.generic],
    first_step: int,
    timing: BatchTiming | None,
    exact: tuple[bool, bool] = (True, True),
) -> list[wire.Part]:
    """Return an `EncodingChunk` as a field of an `EncodeStreamResponse`.

    `output` is that of the steps from `first_step` on. `timing` comes with the sequence's last
    chunk; None means that more chunks follow. `exact` says whether the forward direction's states,
    and the backward one's, are those of the whole sequence.
    """
    head = pb.EncodingChunk(
        id=sequence_id,
        first_step=first_step,
        last=timing is not None,
        timing=None if timing is None else _timing(timing),
        forward_exact=exact[0],
        reverse_exact=exact[1],
    )
    encoding = wire.delimited(pb.EncodingChunk.ENCODING_FIELD_NUMBER, _encoding(output, dtype))
    return wire.delimited(_CHUNKS, [head.SerializeToString(), *encoding])


def error_chunk(sequence_id: int, error: pb.SequenceError) -> list[wire.Part]:
    """Return the only chunk of a sequence that has no result, as a field of an
    `EncodeStreamResponse`."""
    chunk = pb.EncodingChunk(id=sequence_id, last=True, error=error)
    return wire.delimited(_CHUNKS, [chunk.SerializeToString()])


def stream_opened(model: ServedModel, outputs: Collection[str]) -> bytes:
    """Return a stream's first `EncodeStreamResponse` as bytes: which model answers, and what the
    outputs are."""
    opened: list[wire.Part] = [
        pb.StreamOpened(model=model.name, version=model.version).SerializeToString()
    ]
    for info in requested_infos(model, outputs):
        opened += wire.delimited(pb.StreamOpened.OUTPUTS_FIELD_NUMBER, [info])
    return b"".join(wire.delimited(pb.EncodeStreamResponse.OPENED_FIELD_NUMBER, opened))


def _encoding(output: SequenceOutput, dtype: np.dtype[np.generic]) -> list[wire.Part]:
    parts: list[wire.Part] = []
    for name, array in output.arrays.items():
        tensor = _tensor(array, array.dtype if array.dtype.kind == "i" else dtype)
        if name in _FIELDS:
            parts += wire.delimited(_FIELDS[name], tensor)
        else:
            named: list[wire.Part] = [pb.NamedTensor(name=name).SerializeToString()]
            named += wire.delimited(pb.NamedTensor.TENSOR_FIELD_NUMBER, tensor)
            parts += wire.delimited(pb.Encoding.NAMED_FIELD_NUMBER, named)
    if output.state is not None:
        hidden, cell = output.state
        state = wire.delimited(pb.State.HIDDEN_FIELD_NUMBER, _tensor(hidden, dtype))
        state += wire.delimited(pb.State.CELL_FIELD_NUMBER, _tensor(cell, dtype))
        parts += wire.delimited(pb.Encoding.STATE_FIELD_NUMBER, state)
    return parts


def _tensor(array: Array, dtype: np.dtype[np.generic]) -> list[wire.Part]:
    with np.errstate(over="ignore"):  # beyond float16's range is infinity
        return tensors.encode_parts(array.astype(dtype, copy=False))


def _timing(timing: BatchTiming) -> pb.Timing:
    return pb.Timing(
        queue=_duration(timing.queue_seconds),
        compute=_duration(timing.compute_seconds),
        batch_sequences=timing.batch_sequences,
        batch_tokens=timing.batch_tokens,
    )


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int(1e9 * (seconds - whole)))
