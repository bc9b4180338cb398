"""Requests of `bilstm.v1` -> what the batcher takes: its fields' names, its numbers, its order.

Pure: messages and limits in, `SequenceInput`s or `InvalidInput` out. What a model takes, whoever
asks, is in `serving/checks.py`; shapes and counts are checked before tensor bytes are touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from ...engine.sequences import Array, SequenceInput
from ...errors import InvalidInput
from ...model.config import ModelConfig, Output
from ...serving import checks
from ...settings import RequestLimits
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
_FLOAT_NAMES = "DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT16 or DATA_TYPE_BFLOAT16"
_INTEGER_NAMES = "DATA_TYPE_INT32 or DATA_TYPE_INT64"


@dataclass(frozen=True, slots=True, eq=False)
class ParsedRequest:
    """An `EncodeRequest` that was found to be good."""

    sequences: list[SequenceInput]
    reply_dtype: np.dtype[np.generic]
    reply_bytes: int  # of its tensors


def parse_encode_request(
    request: EncodeRequest, config: ModelConfig, limits: RequestLimits
) -> ParsedRequest:
    """Return what an `EncodeRequest` asks for. Raises `InvalidInput`, naming the first field that
    is not what it must be."""
    reply_dtype = parse_reply_dtype(request.output_data_type, "output_data_type")
    outputs = parse_outputs(request.outputs, "outputs", config)
    count = len(request.sequences)
    checks.check_sequences(count, limits.max_request_sequences, "sequences")
    checks.check_state_count(len(request.initial_states), count, "initial_states")
    tokens = 0
    for index, sequence in enumerate(request.sequences):
        field = f"sequences[{index}]"
        steps = check_steps(sequence, field, config)
        checks.check_length(steps, limits.max_sequence_tokens, f"{field}.shape")
        tokens += steps
    checks.check_tokens(tokens, limits.max_request_tokens, "sequences")
    reply_bytes = checks.check_reply(
        outputs, count, tokens, reply_dtype.itemsize, limits.max_message_bytes, "sequences", config
    )
    return ParsedRequest(_sequences(request, outputs, config), reply_dtype, reply_bytes)


def _sequences(
    request: EncodeRequest, outputs: frozenset[Output], config: ModelConfig
) -> list[SequenceInput]:
    sequences = []
    for index, message in enumerate(request.sequences):
        steps = decode(message, f"sequences[{index}]")
        checks.check_token_ids(steps, f"sequences[{index}].data", config)
        state = None
        if request.initial_states:
            state = parse_state(request.initial_states[index], f"initial_states[{index}]", config)
        sequences.append(SequenceInput(steps, outputs, state))
    return sequences


# -- what streams ask for, too --------------------------------------------------------------------


def parse_outputs(numbers: Sequence[int], field: str, config: ModelConfig) -> frozenset[Output]:
    """Return the outputs that have these numbers; the states if there are none. Raises
    `InvalidInput`."""
    if len(numbers) > len(OUTPUTS):
        raise InvalidInput(field, f"must be at most {len(OUTPUTS)} outputs, got {len(numbers)}")
    for index, number in enumerate(numbers):
        if number not in OUTPUTS:
            known = ", ".join(pb.Output.Name(pb.Output.ValueType(n)) for n in OUTPUTS)
            raise InvalidInput(f"{field}[{index}]", f"must be one of {known}, got {number}")
        checks.check_output(OUTPUTS[number], f"{field}[{index}]", config)
    return frozenset(OUTPUTS[number] for number in numbers) or frozenset({Output.STATES})


def parse_reply_dtype(data_type: int, field: str) -> np.dtype[np.generic]:
    """Return the type of a reply's tensors, float32 unless another one is asked for. Raises
    `InvalidInput`."""
    data_type = data_type or pb.DATA_TYPE_FLOAT32
    if data_type not in tensors.FLOATS:
        raise InvalidInput(field, f"must be {_FLOAT_NAMES}, got {data_type}")
    return tensors.dtype_of(data_type)


def check_steps(steps: Tensor, field: str, config: ModelConfig) -> int:
    """Check the type and shape of a sequence, or of a part of one. Returns its steps; raises
    `InvalidInput`."""
    if config.embedding:
        _check_type(steps, field, tensors.INTEGERS, _INTEGER_NAMES)
    else:
        _check_type(steps, field, tensors.FLOATS, _FLOAT_NAMES)
    return checks.check_steps(steps.shape, f"{field}.shape", config)


def parse_state(state: State, field: str, config: ModelConfig) -> tuple[Array, Array]:
    """Return an initial hidden state, [L*K, P], and cell state, [L*K, H]. Raises `InvalidInput`."""
    hidden, cell = f"{field}.hidden", f"{field}.cell"
    _check_type(state.hidden, hidden, tensors.FLOATS, _FLOAT_NAMES)
    checks.check_hidden_shape(state.hidden.shape, f"{hidden}.shape", config)
    _check_type(state.cell, cell, tensors.FLOATS, _FLOAT_NAMES)
    checks.check_cell_shape(state.cell.shape, f"{cell}.shape", config)
    return decode(state.hidden, hidden), decode(state.cell, cell)


def decode(message: Tensor, field: str) -> Array:
    """Return a tensor's array, over the message's bytes. Raises `InvalidInput`."""
    try:
        return tensors.decode(message)
    except tensors.TensorError as error:
        raise InvalidInput(f"{field}.{error.field}", error.expected) from error


def _check_type(tensor: Tensor, field: str, allowed: frozenset[int], names: str) -> None:
    if tensor.data_type not in allowed:
        got = tensors.data_type_name(tensor.data_type)
        raise InvalidInput(f"{field}.data_type", f"must be {names}, got {got}")
