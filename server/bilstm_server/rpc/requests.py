"""Requests -> what the batcher takes: every field checked, before anything is allocated.

Pure: messages and limits in, `SequenceInput`s or `InvalidInput` out. Shapes and counts are
judged before tensor bytes are touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm import tensors
from bilstm.sizes import reply_elements
from bilstm.v1 import encoder_pb2 as pb

from ..engine.sequences import Array, SequenceInput
from ..errors import InvalidInput
from ..model.config import ModelConfig, Output
from ..settings import RequestLimits
from .messages import EncodeRequest, State, Tensor

# The one place where the wire's outputs meet the model's.
OUTPUTS: dict[int, Output] = {
    pb.OUTPUT_STATES: Output.STATES,
    pb.OUTPUT_FINAL: Output.FINAL,
    pb.OUTPUT_MEAN: Output.MEAN,
    pb.OUTPUT_MAX: Output.MAX,
    pb.OUTPUT_LOGITS: Output.LOGITS,
    pb.OUTPUT_STATE: Output.STATE,
}


@dataclass(frozen=True, slots=True, eq=False)
class ParsedRequest:
    sequences: list[SequenceInput]
    reply_dtype: np.dtype[np.generic]
    reply_bytes: int  # of its tensors


def parse_encode_request(
    request: EncodeRequest, config: ModelConfig, limits: RequestLimits
) -> ParsedRequest:
    """Raises `InvalidInput`, naming the first field that is not what it must be."""
    reply_dtype = parse_reply_dtype(request.output_data_type, "output_data_type")
    outputs = parse_outputs(request.outputs, "outputs", config)
    count = len(request.sequences)
    if not 1 <= count <= limits.max_request_sequences:
        raise InvalidInput(
            "sequences", f"must be 1 to {limits.max_request_sequences} sequences, got {count}"
        )
    states = len(request.initial_states)
    if states not in (0, count):
        raise InvalidInput(
            "initial_states", f"must be empty or one per sequence ({count}), got {states}"
        )
    tokens = 0
    for index, sequence in enumerate(request.sequences):
        tokens += _check_sequence(sequence, f"sequences[{index}]", config, limits)
    if tokens > limits.max_request_tokens:
        raise InvalidInput(
            "sequences",
            f"must have at most {limits.max_request_tokens} steps in all, got {tokens}",
        )
    reply_bytes = _check_reply(count, tokens, outputs, reply_dtype.itemsize, config, limits)
    return ParsedRequest(_sequences(request, outputs, config), reply_dtype, reply_bytes)


# -- what streams check, too ----------------------------------------------------------------------


def parse_outputs(numbers: Sequence[int], field: str, config: ModelConfig) -> frozenset[Output]:
    if len(numbers) > len(OUTPUTS):
        raise InvalidInput(field, f"must be at most {len(OUTPUTS)} outputs, got {len(numbers)}")
    for index, number in enumerate(numbers):
        if number not in OUTPUTS:
            known = ", ".join(pb.Output.Name(pb.Output.ValueType(n)) for n in OUTPUTS)
            raise InvalidInput(f"{field}[{index}]", f"must be one of {known}, got {number}")
        if OUTPUTS[number] is Output.LOGITS and config.head is None:
            raise InvalidInput(f"{field}[{index}]", "the model has no head, so no logits")
    return frozenset(OUTPUTS[number] for number in numbers) or frozenset({Output.STATES})


def parse_reply_dtype(data_type: int, field: str) -> np.dtype[np.generic]:
    data_type = data_type or pb.DATA_TYPE_FLOAT32
    if data_type not in tensors.FLOATS:
        raise InvalidInput(field, f"must be {_float_names()}, got {data_type}")
    return tensors.dtype_of(data_type)


def _check_sequence(
    sequence: Tensor, field: str, config: ModelConfig, limits: RequestLimits
) -> int:
    """Type and shape of one sequence. Returns its steps."""
    steps = check_steps(sequence, field, config)
    if not 1 <= steps <= limits.max_sequence_tokens:
        raise InvalidInput(
            f"{field}.shape",
            f"must have 1 to {limits.max_sequence_tokens} steps, got {steps}; a stream takes more",
        )
    return steps


def check_steps(steps: Tensor, field: str, config: ModelConfig) -> int:
    """Type and shape of a sequence, or of a part of it. Returns its steps."""
    rank = len(steps.shape)
    if config.embedding:
        _check_type(steps, field, tensors.INTEGERS, "DATA_TYPE_INT32 or DATA_TYPE_INT64")
        if rank != 1:
            raise InvalidInput(f"{field}.shape", f"must be [T] of token ids, got {rank} sizes")
    else:
        _check_type(steps, field, tensors.FLOATS, _float_names())
        if rank != 2 or steps.shape[1] != config.input_size:
            shape = list(steps.shape[:8])
            raise InvalidInput(
                f"{field}.shape", f"must be [T, {config.input_size}] (input_size), got {shape}"
            )
    return steps.shape[0]


def check_ids(steps: Array, field: str, config: ModelConfig) -> None:
    if config.embedding and not (
        steps.min() >= 0 and steps.max() < config.embedding.num_embeddings
    ):
        raise InvalidInput(
            field,
            f"token ids must be 0 to {config.embedding.num_embeddings - 1}, "
            f"got {steps.min()} to {steps.max()}",
        )


def _check_type(tensor: Tensor, field: str, allowed: frozenset[int], names: str) -> None:
    if tensor.data_type not in allowed:
        got = tensors.data_type_name(tensor.data_type)
        raise InvalidInput(f"{field}.data_type", f"must be {names}, got {got}")


def _float_names() -> str:
    return "DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT16 or DATA_TYPE_BFLOAT16"


def _check_reply(
    count: int,
    tokens: int,
    outputs: frozenset[Output],
    itemsize: int,
    config: ModelConfig,
    limits: RequestLimits,
) -> int:
    """A reply that would be too large is refused before it is computed. Returns its bytes."""
    elements = reply_elements(
        {number for number, output in OUTPUTS.items() if output in outputs},
        sequences=count,
        tokens=tokens,
        encoding_size=config.encoding_size,
        num_classes=config.head.num_classes if config.head else 0,
        state_elements=config.state_rows * (config.state_size + config.hidden_size),
    )
    if elements * itemsize > limits.max_message_bytes:
        raise InvalidInput(
            "sequences",
            f"the reply would be {elements * itemsize} bytes, more than the server's "
            f"{limits.max_message_bytes}; send fewer sequences, ask for fewer outputs or a "
            "shorter output_data_type, or use a stream",
        )
    return elements * itemsize


def _sequences(
    request: EncodeRequest, outputs: frozenset[Output], config: ModelConfig
) -> list[SequenceInput]:
    sequences = []
    for index, message in enumerate(request.sequences):
        steps = decode(message, f"sequences[{index}]")
        check_ids(steps, f"sequences[{index}].data", config)
        state = None
        if request.initial_states:
            state = parse_state(request.initial_states[index], f"initial_states[{index}]", config)
        sequences.append(SequenceInput(steps, outputs, state))
    return sequences


def parse_state(state: State, field: str, config: ModelConfig) -> tuple[Array, Array]:
    rows = config.state_rows
    parts = []
    for name, message, width in (
        ("hidden", state.hidden, config.state_size),
        ("cell", state.cell, config.hidden_size),
    ):
        _check_type(message, f"{field}.{name}", tensors.FLOATS, _float_names())
        _check_shape(message.shape, (rows, width), f"{field}.{name}.shape")
        parts.append(decode(message, f"{field}.{name}"))
    return parts[0], parts[1]


def _check_shape(shape: Sequence[int], expected: tuple[int, ...], field: str) -> None:
    if tuple(shape[:8]) != expected:
        raise InvalidInput(field, f"must be {list(expected)}, got {list(shape[:8])}")


def decode(message: Tensor, field: str) -> Array:
    try:
        return tensors.decode(message)
    except tensors.TensorError as error:
        raise InvalidInput(f"{field}.{error.field}", error.expected) from error
