"""What both clients share, without any I/O: channel options, arrays to requests, replies to
arrays, and how a large batch is cut into requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bilstm import tensors
from bilstm.sizes import reply_elements
from bilstm.v1 import encoder_pb2 as pb

from .types import (
    Array,
    DataTypeName,
    Encoding,
    Limits,
    Model,
    OutputName,
    State,
    Timing,
)

DEFAULT_TIMEOUT_SECONDS = 30.0
_MAX_RETRIED_BYTES = 256 * 1024 * 1024
_MESSAGE_OVERHEAD_BYTES = 128  # more than one tensor's type, shape and field lengths take

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),  # the server bounds its replies
    ("grpc.max_send_message_length", -1),  # and refuses requests that are too large
    ("grpc.http2.max_frame_size", 1024 * 1024),
    ("grpc.per_rpc_retry_buffer_size", _MAX_RETRIED_BYTES),
    (
        "grpc.service_config",
        json.dumps(
            {
                "methodConfig": [
                    {
                        "name": [{"service": "bilstm.v1.EncoderService"}],
                        "retryPolicy": {
                            "maxAttempts": 5,
                            "initialBackoff": "0.1s",
                            "maxBackoff": "2s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": ["UNAVAILABLE"],
                        },
                    }
                ]
            }
        ),
    ),
]


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How to encode, for every sequence of a call."""

    outputs: Sequence[OutputName]
    model: str
    version: str
    output_data_type: DataTypeName

    @property
    def output_numbers(self) -> list[pb.Output.ValueType]:
        names = self.outputs or ("states",)  # the server's default
        return [pb.Output.ValueType(_number(pb.Output, f"OUTPUT_{o.upper()}")) for o in names]

    @property
    def data_type(self) -> pb.DataType.ValueType:
        name = f"DATA_TYPE_{self.output_data_type.upper()}"
        return pb.DataType.ValueType(_number(pb.DataType, name))


def _number(enum: Any, name: str) -> int:
    """The wire's number of an enum's name; `ValueError` says which names there are."""
    numbers: dict[str, int] = dict(enum.items()[1:])  # less UNSPECIFIED
    if name not in numbers:
        raise ValueError(f"{name} is none of {', '.join(numbers)}")
    return numbers[name]


def to_array(x: Any) -> Array:
    """`x` as the wire can carry it: [T, D] floats, or [T] integers for token ids.

    Takes an ndarray, a torch tensor (on any device, also one that requires grad or is bfloat16),
    or nested lists. float16 and bfloat16 stay; other floats become float32.
    """
    if hasattr(x, "detach"):  # a torch tensor; torch itself is not needed to say so
        x = x.detach().cpu()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    array = np.asarray(x)
    carried = tensors.data_type_of(array.dtype) is not None
    if array.dtype.kind in "iub":
        if array.ndim == 1:
            return array if carried else array.astype(np.int64)
        return array.astype(np.float32)
    if not carried and array.dtype.kind != "f":
        raise TypeError(f"a sequence must be numbers, [T, D] or [T], got {array.dtype}")
    return array if carried else array.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The caller's sequences, ready for the wire."""

    arrays: list[Array]
    states: list[tuple[Array, Array]] | None  # hidden and cell, one per sequence

    @classmethod
    def of(cls, sequences: Iterable[Any], initial_states: Sequence[State] | None) -> Self:
        arrays = [to_array(sequence) for sequence in sequences]
        if initial_states is None:
            return cls(arrays, None)
        if len(initial_states) != len(arrays):
            raise ValueError(
                f"initial_states must be one per sequence: {len(arrays)}, got {len(initial_states)}"
            )
        return cls(arrays, [(to_array(s.hidden), to_array(s.cell)) for s in initial_states])

    def request(self, part: slice, options: EncodeOptions) -> pb.EncodeRequest:
        """The sequences of `part` as a message."""
        return pb.EncodeRequest(
            model=options.model,
            version=options.version,
            sequences=[tensors.encode(array) for array in self.arrays[part]],
            outputs=options.output_numbers,
            output_data_type=options.data_type,
            initial_states=[
                pb.State(hidden=tensors.encode(hidden), cell=tensors.encode(cell))
                for hidden, cell in (self.states or [])[part]
            ],
        )

    def parts(self, options: EncodeOptions, model: Model | None) -> Iterator[slice]:
        """Cut the batch into requests that keep the model's limits, in order; one if None.

        A sequence that breaks them alone is left to the server to refuse.
        """
        start = tokens = sent = 0
        for index, array in enumerate(self.arrays if model else []):
            own_tokens = array.shape[0] if array.ndim else 0
            own_bytes = array.nbytes + _MESSAGE_OVERHEAD_BYTES
            if self.states:
                own_bytes += sum(a.nbytes + _MESSAGE_OVERHEAD_BYTES for a in self.states[index])
            if (
                index > start
                and model
                and not _keeps_limits(
                    model, options, index + 1 - start, tokens + own_tokens, sent + own_bytes
                )
            ):
                yield slice(start, index)
                start, tokens, sent = index, 0, 0
            tokens += own_tokens
            sent += own_bytes
        if self.arrays:
            yield slice(start, len(self.arrays))


def _keeps_limits(
    model: Model, options: EncodeOptions, sequences: int, tokens: int, request_bytes: int
) -> bool:
    directions = 2 if model.bidirectional else 1
    width = model.proj_size or model.hidden_size
    elements = reply_elements(
        options.output_numbers,
        sequences=sequences,
        tokens=tokens,
        encoding_size=directions * width,
        num_classes=model.num_classes,
        state_elements=model.num_layers * directions * (width + model.hidden_size),
    )
    reply_bytes = elements * tensors.dtype_of(options.data_type).itemsize
    limits = model.limits
    return (
        sequences <= limits.max_request_sequences
        and tokens <= limits.max_request_tokens
        and max(request_bytes, reply_bytes) <= limits.max_message_bytes
    )


def encodings(response: pb.EncodeResponse) -> list[Encoding]:
    """The reply's arrays, each the caller's own to write to."""
    timing = Timing(
        queue_seconds=response.timing.queue.ToTimedelta().total_seconds(),
        compute_seconds=response.timing.compute.ToTimedelta().total_seconds(),
        batch_sequences=response.timing.batch_sequences,
        batch_tokens=response.timing.batch_tokens,
    )
    return [_encoding(message, timing) for message in response.encodings]


def _encoding(message: pb.Encoding, timing: Timing) -> Encoding:
    present = {field.name for field, _ in message.ListFields()}
    arrays = {name: _own(getattr(message, name)) for name in present - {"state"}}
    state = None
    if "state" in present:
        state = State(_own(message.state.hidden), _own(message.state.cell))
    return Encoding(timing=timing, state=state, **arrays)


def _own(tensor: pb.Tensor) -> Array:
    return tensors.decode(tensor).copy()


def model(message: pb.Model) -> Model:
    return Model(
        name=message.name,
        version=message.version,
        input_size=message.input_size,
        hidden_size=message.hidden_size,
        num_layers=message.num_layers,
        proj_size=message.proj_size,
        bidirectional=message.bidirectional,
        num_embeddings=message.num_embeddings,
        num_classes=message.num_classes,
        labels=tuple(message.labels),
        outputs=tuple(
            pb.Output.Name(output).removeprefix("OUTPUT_").lower() for output in message.outputs
        ),
        limits=Limits(
            max_message_bytes=message.limits.max_message_bytes,
            max_sequence_tokens=message.limits.max_sequence_tokens,
            max_request_sequences=message.limits.max_request_sequences,
            max_request_tokens=message.limits.max_request_tokens,
        ),
    )
