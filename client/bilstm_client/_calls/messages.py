"""Arrays to requests, replies to arrays, and how a large batch is cut into requests. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from bilstm import tensors
from bilstm.sizes import reply_elements
from bilstm.v1 import encoder_pb2 as pb

from ..errors import InvalidInput
from ..types import (
    DATA_TYPES,
    OUTPUTS,
    Array,
    DataTypeName,
    Encoding,
    InitialState,
    Limits,
    Model,
    Outputs,
    State,
    Timing,
)
from .arrays import are_features, as_sent, sent_bytes, to_array, to_state
from .status import broken_reply, no_token_ids, seconds_of

N = TypeVar("N")
V = TypeVar("V")
_MESSAGE_OVERHEAD_BYTES = 128  # more than one tensor's type, shape and field lengths take

# The one place where the caller's names meet the wire's numbers.
_OUTPUTS = {name: pb.Output.Value(f"OUTPUT_{name.upper()}") for name in OUTPUTS}
_OUTPUT_NAMES = {number: name for name, number in _OUTPUTS.items()}
_DATA_TYPES = {name: pb.DataType.Value(f"DATA_TYPE_{name.upper()}") for name in DATA_TYPES}


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How each sequence of a call is to be encoded, in the wire's numbers."""

    outputs: list[pb.Output.ValueType]
    data_type: pb.DataType.ValueType
    model: str
    version: str

    @classmethod
    def of(
        cls,
        outputs: Outputs,
        output_data_type: DataTypeName,
        model: str,
        version: str,
    ) -> Self:
        """Raises `TypeError` or `ValueError` for names that do not exist."""
        data_type = _number("output_data_type", _DATA_TYPES, output_data_type)
        return cls(output_numbers(outputs), data_type, model, str(version))  # 1 is "1", too

    @property
    def model_key(self) -> tuple[str, str]:
        return self.model, self.version


def output_numbers(outputs: Outputs) -> list[pb.Output.ValueType]:
    """The wire's numbers of the outputs that are named, one or more."""
    if not isinstance(outputs, Iterable):
        raise TypeError(f"outputs must be a name or a list of names, got {outputs!r}")
    names = [outputs] if isinstance(outputs, str) else outputs
    numbers = [_number("output", _OUTPUTS, name) for name in names]
    if not numbers:
        raise ValueError(f"outputs must name one or more of: {', '.join(OUTPUTS)}")
    return numbers


def _number(what: str, numbers: Mapping[N, V], name: N) -> V:
    if name not in numbers:
        raise ValueError(f"{name!r} is no {what}; there are: {', '.join(map(str, numbers))}")
    return numbers[name]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The caller's sequences and initial states, checked and ready for the wire."""

    arrays: list[Array]
    states: list[tuple[Array, Array]] | None  # hidden and cell, one per sequence

    @classmethod
    def of(cls, sequences: Iterable[Any], initial_states: Sequence[InitialState] | None) -> Self:
        arrays = [to_array(x, f"sequences[{i}]") for i, x in enumerate(sequences)]
        if initial_states is None:
            return cls(arrays, None)
        if len(initial_states) != len(arrays):
            raise ValueError(
                f"initial_states must be one per sequence: {len(arrays)}, got {len(initial_states)}"
            )
        states = [to_state(s, f"initial_states[{i}]") for i, s in enumerate(initial_states)]
        return cls(arrays, states)

    def request(self, part: slice, options: EncodeOptions) -> pb.EncodeRequest:
        """The sequences of `part` as a request."""
        return pb.EncodeRequest(
            model=options.model,
            version=options.version,
            sequences=[tensors.encode(as_sent(array)) for array in self.arrays[part]],
            outputs=options.outputs,
            output_data_type=options.data_type,
            initial_states=[
                pb.State(hidden=tensors.encode(hidden), cell=tensors.encode(cell))
                for hidden, cell in (self.states or [])[part]
            ],
        )

    def encodings(
        self, response: pb.EncodeResponse, part: slice, options: EncodeOptions
    ) -> list[Encoding]:
        """The results in the reply to `part`, each array the caller's own to write to. Raises a
        `ServerError` or `TensorError` if the reply does not fit the request."""
        arrays = self.arrays[part]
        if len(response.encodings) != len(arrays):
            raise broken_reply(f"{len(response.encodings)} encodings of {len(arrays)} sequences")
        spent = timing(response.timing)
        results = []
        for index, (array, message) in enumerate(
            zip(arrays, response.encodings, strict=True), part.start
        ):
            states = own(message.states) if message.HasField("states") else None
            result = encoding(message, spent, states)
            check_complete(result, options, f"sequences[{index}]")
            if states is not None and states.shape[:1] != array.shape[:1]:
                raise broken_reply(
                    f"sequences[{index}]: states of shape {list(states.shape)} for an input of "
                    f"{list(array.shape)}"
                )
            results.append(result)
        return results

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Around a call: explains a refusal of integers that were sent as features."""
        try:
            yield
        except InvalidInput as error:
            match = re.match(r"sequences\[([0-9]+)\]\.data_type$", error.field)
            if match and int(match[1]) < len(self.arrays):
                array = self.arrays[int(match[1])]
                if are_features(array):
                    raise no_token_ids(error, list(array.shape)) from None
            raise

    def parts(self, options: EncodeOptions, model: Model | None) -> Iterator[slice]:
        """Cut the batch into requests that keep the model's limits, in order; without a model it is
        one request. A sequence that breaks a limit by itself is left to the server to refuse.
        """
        start = tokens = sent = 0
        for index, array in enumerate(self.arrays if model else []):
            own_tokens = array.shape[0] if array.ndim else 0
            own_bytes = sent_bytes(array) + _MESSAGE_OVERHEAD_BYTES
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
        [_OUTPUT_NAMES[number] for number in options.outputs],
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


def timing(message: pb.Timing) -> Timing:
    """The message as a value, its durations in seconds."""
    return Timing(
        queue_seconds=seconds_of(message.queue),
        compute_seconds=seconds_of(message.compute),
        batch_sequences=message.batch_sequences,
        batch_tokens=message.batch_tokens,
    )


def encoding(
    message: pb.Encoding, timing: Timing, states: Array | None, *, in_chunks: bool = False
) -> Encoding:
    """The message's results; its states are given as an array, or went out in chunks."""
    present = {field.name for field, _ in message.ListFields()}
    arrays = {name: own(getattr(message, name)) for name in present - {"states", "state"}}
    state = None
    if "state" in present:
        state = State(own(message.state.hidden), own(message.state.cell))
    return Encoding(timing=timing, states=states, state=state, in_chunks=in_chunks, **arrays)


def check_complete(result: Encoding, options: EncodeOptions, name: str) -> None:
    """Raises a `ServerError` if the result lacks an output that was requested."""
    for output in options.outputs:
        if _OUTPUT_NAMES[output] not in result.outputs:
            raise broken_reply(f"{name} has no {_OUTPUT_NAMES[output]}")


def own(tensor: pb.Tensor) -> Array:
    """The tensor's array, copied, so that it is the caller's own to write to."""
    return tensors.decode(tensor).copy()


def model(message: pb.Model) -> Model:
    """The message as a value, without outputs that only a newer client knows."""
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
            _OUTPUT_NAMES[output] for output in message.outputs if output in _OUTPUT_NAMES
        ),
        limits=Limits(
            max_message_bytes=message.limits.max_message_bytes,
            max_sequence_tokens=message.limits.max_sequence_tokens,
            max_request_sequences=message.limits.max_request_sequences,
            max_request_tokens=message.limits.max_request_tokens,
            max_stream_bytes=message.limits.max_stream_bytes,
            max_stream_sequences=message.limits.max_stream_sequences,
        ),
    )
