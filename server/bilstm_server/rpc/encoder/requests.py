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
from ...model.config import InputConfig, ModelConfig
from ...quoting import listed, quoted
from ...serving import checks
from ...settings import RequestLimits
from .messages import EncodeRequest, NamedTensor, State, Tensor

# The one place where the wire's outputs meet the model's.
OUTPUTS: dict[int, str] = {
    pb.OUTPUT_STATES: "states",
    pb.OUTPUT_FINAL: "final",
    pb.OUTPUT_MEAN: "mean",
    pb.OUTPUT_MAX: "max",
    pb.OUTPUT_LOGITS: "logits",
    pb.OUTPUT_STATE: "state",
}
_FLOAT_NAMES = "DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT16 or DATA_TYPE_BFLOAT16"
_INTEGER_NAMES = "DATA_TYPE_INT32 or DATA_TYPE_INT64"


@dataclass(frozen=True, slots=True, eq=False)
class ParsedRequest:
    """An `EncodeRequest` that was found to be good."""

    sequences: list[SequenceInput]
    outputs: frozenset[str]
    reply_dtype: np.dtype[np.generic]
    reply_bytes: int  # of its tensors


def parse_encode_request(
    request: EncodeRequest, config: ModelConfig, limits: RequestLimits
) -> ParsedRequest:
    """Return what an `EncodeRequest` asks for. Raises `InvalidInput`, naming the first field that
    is not what it must be."""
    reply_dtype = parse_reply_dtype(request.output_data_type, "output_data_type")
    outputs = parse_outputs(request.outputs, request.output_names, "", config)
    sequences, field = _sequences_of(request, config)
    count = len(sequences)
    checks.check_sequences(count, limits.max_request_sequences, field)
    checks.check_state_count(len(request.initial_states), count, "initial_states")
    lengths = []
    for index, inputs in enumerate(sequences):
        steps = check_inputs(inputs, config)
        checks.check_length(steps, limits.max_sequence_tokens, inputs[0].field_of("shape"), config)
        checks.check_whole(steps, outputs, limits.whole_tokens, f"{field}[{index}]", config)
        lengths.append(steps)
    checks.check_tokens(sum(lengths), limits.max_request_tokens, field)
    reply_bytes = checks.check_reply(
        outputs, lengths, reply_dtype.itemsize, limits.max_message_bytes, field, config
    )
    states: list[tuple[Array, Array] | None] = [
        parse_state(state, f"initial_states[{index}]", config)
        for index, state in enumerate(request.initial_states)
    ]
    parsed = [
        SequenceInput(decode_inputs(inputs, config), outputs, state)
        for inputs, state in zip(sequences, states or [None] * count, strict=True)
    ]
    return ParsedRequest(parsed, outputs, reply_dtype, reply_bytes)


@dataclass(frozen=True, slots=True)
class Given:
    """The tensor that came for one input of a sequence, and the field that it came in."""

    tensor: Tensor
    field: str

    def field_of(self, part: str) -> str:
        """The field of a part of the tensor."""
        return f"{self.field}.{part}"


def _sequences_of(
    request: EncodeRequest, config: ModelConfig
) -> tuple[list[tuple[Given, ...]], str]:
    """The tensors of each sequence, in the order of the model's inputs, and the field that has
    them all."""
    if request.named_sequences:
        if request.sequences:
            raise InvalidInput("sequences", "must be empty where named_sequences are given")
        named = [
            match_inputs(sequence.inputs, f"named_sequences[{index}]", config)
            for index, sequence in enumerate(request.named_sequences)
        ]
        return named, "named_sequences"
    if request.sequences and len(config.inputs) > 1:
        raise InvalidInput("sequences", unnamed(config))
    plain: list[tuple[Given, ...]] = [
        (Given(sequence, f"sequences[{index}]"),)
        for index, sequence in enumerate(request.sequences)
    ]
    return plain, "sequences"


# -- what streams ask for, too --------------------------------------------------------------------


def unnamed(config: ModelConfig) -> str:
    """What to say where a sequence came without names, for a model of several inputs."""
    return f"must be empty: the model's inputs are sent by name: {listed(config.inputs)}"


def match_inputs(
    named: Sequence[NamedTensor], field: str, config: ModelConfig
) -> tuple[Given, ...]:
    """Return the tensors in the order of the model's inputs. Raises `InvalidInput` unless each is
    there once. `field` is that of the sequence; for a chunk's inputs it is empty."""
    prefix = f"{field}." if field else ""
    found = {given.name: Given(given.tensor, f"{prefix}{given.name}") for given in named}
    if len(found) < len(named):
        raise InvalidInput(field or "inputs", "must have each input once")
    for name in found:
        if name not in config.inputs:
            raise InvalidInput(
                field or "inputs",
                f"the model has no input {quoted(name)}; its inputs are {listed(config.inputs)}",
            )
    for name in config.inputs:
        if name not in found:
            raise InvalidInput(f"{prefix}{name}", "must be given with the other inputs")
    return tuple(found[name] for name in config.inputs)


def check_inputs(inputs: Sequence[Given], config: ModelConfig) -> int:
    """Check the types and shapes of a sequence's inputs, or of a part of them. Returns their
    steps; raises `InvalidInput`."""
    steps = [
        _check_steps(given, own) for given, own in zip(inputs, config.inputs.values(), strict=True)
    ]
    for given, own in zip(inputs[1:], steps[1:], strict=True):
        if own != steps[0]:
            first = next(iter(config.inputs))
            raise InvalidInput(
                given.field_of("shape"),
                f"must have as many steps as {first}, {steps[0]}, got {own}",
            )
    return steps[0]


def _check_steps(given: Given, own: InputConfig) -> int:
    if own.ids:
        _check_type(given.tensor, given.field, tensors.INTEGERS, _INTEGER_NAMES)
    else:
        _check_type(given.tensor, given.field, tensors.FLOATS, _FLOAT_NAMES)
    return checks.check_steps(given.tensor.shape, given.field_of("shape"), own)


def decode_inputs(inputs: Sequence[Given], config: ModelConfig) -> tuple[Array, ...]:
    """Return the arrays of inputs that were checked, over the message's bytes, ids within range.
    Raises `InvalidInput`."""
    arrays = []
    for given, own in zip(inputs, config.inputs.values(), strict=True):
        steps = decode(given.tensor, given.field)
        if len(steps):
            checks.check_ids(steps, given.field_of("data"), own)
        arrays.append(steps)
    return tuple(arrays)


def parse_outputs(
    numbers: Sequence[int], names: Sequence[str], prefix: str, config: ModelConfig
) -> frozenset[str]:
    """Return the outputs that have these numbers and names; if there are none the states, or what
    the model has in their place. `prefix` is that of the fields. Raises `InvalidInput`."""
    field = f"{prefix}outputs"
    if len(numbers) > len(OUTPUTS):
        raise InvalidInput(field, f"must be at most {len(OUTPUTS)} outputs, got {len(numbers)}")
    for index, number in enumerate(numbers):
        if number not in OUTPUTS:
            known = ", ".join(pb.Output.Name(pb.Output.ValueType(n)) for n in OUTPUTS)
            raise InvalidInput(f"{field}[{index}]", f"must be one of {known}, got {number}")
        checks.check_output(OUTPUTS[number], f"{field}[{index}]", config)
    for index, name in enumerate(names):
        checks.check_output(name, f"{prefix}output_names[{index}]", config)
    asked = frozenset((*(OUTPUTS[number] for number in numbers), *names))
    if not asked:
        checks.check_output("states", field, config)
    return asked or frozenset({"states"})


def parse_reply_dtype(data_type: int, field: str) -> np.dtype[np.generic]:
    """Return the type of a reply's floats, float32 unless another one is asked for. Raises
    `InvalidInput`."""
    data_type = data_type or pb.DATA_TYPE_FLOAT32
    if data_type not in tensors.FLOATS:
        raise InvalidInput(field, f"must be {_FLOAT_NAMES}, got {data_type}")
    return tensors.dtype_of(data_type)


def parse_state(state: State, field: str, config: ModelConfig) -> tuple[Array, Array]:
    """Return an initial hidden state, [L*K, P], and cell state, [L*K, H]. Raises `InvalidInput`."""
    checks.check_has_state(field, config)
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
