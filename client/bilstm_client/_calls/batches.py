"""`Batch`: sequences to requests, replies to encodings, and how a large batch is cut into requests.
No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bilstm import tensors
from bilstm.sizes import MAX_MESSAGE_INPUTS
from bilstm.v1 import encoder_pb2 as pb

from ..errors import InvalidInput
from ..models import Model, OutputInfo
from ..types import Array, Encoding, InitialState
from .arrays import to_state
from .inputs import Inputs
from .messages import check_complete, encoding, label_names, named_infos, timing
from .options import EncodeOptions
from .status import broken_reply, no_token_ids

_STATE_OVERHEAD_BYTES = 256  # more than two tensors' types, shapes and field lengths take
_ID_BYTES = np.dtype(np.int32).itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The caller's sequences and initial states, checked and ready for the wire."""

    sequences: list[Inputs]
    states: list[tuple[Array, Array]] | None  # hidden and cell, one per sequence

    @classmethod
    def of(cls, sequences: Iterable[Any], initial_states: Sequence[InitialState] | None) -> Self:
        inputs = [Inputs.of(x, f"sequences[{i}]") for i, x in enumerate(sequences)]
        for index, sequence in enumerate(inputs):
            if sequence.are_named != inputs[0].are_named:
                raise TypeError(f"sequences[{index}]: must be {_kind(inputs[0])}, as the first is")
        if initial_states is None:
            return cls(inputs, None)
        if len(initial_states) != len(inputs):
            raise ValueError(
                f"initial_states must be one per sequence: {len(inputs)}, got {len(initial_states)}"
            )
        states = [to_state(s, f"initial_states[{i}]") for i, s in enumerate(initial_states)]
        return cls(inputs, states)

    def request(self, part: slice, options: EncodeOptions) -> pb.EncodeRequest:
        """The sequences of `part` as a request."""
        sequences = self.sequences[part]
        return pb.EncodeRequest(
            model=options.model,
            version=options.version,
            sequences=[x.as_tensor() for x in sequences if not x.are_named],
            named_sequences=[x.as_message() for x in sequences if x.are_named],
            outputs=options.numbered,
            output_names=options.named,
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
        sequences = self.sequences[part]
        if len(response.encodings) != len(sequences):
            raise broken_reply(f"{len(response.encodings)} encodings of {len(sequences)} sequences")
        spent, infos = timing(response.timing), named_infos(response.outputs)
        names = label_names(infos)
        results = []
        for index, (sequence, message) in enumerate(
            zip(sequences, response.encodings, strict=True), part.start
        ):
            result = encoding(message, spent, names)
            check_complete(result, options, f"sequences[{index}]")
            _check_rows(result, infos, sequence, f"sequences[{index}]")
            results.append(result)
        return results

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Around a call: explains a refusal of integers that were sent as features."""
        try:
            yield
        except InvalidInput as error:
            match = re.match(r"sequences\[([0-9]+)\](?:\.(\w+))?\.data_type$", error.field)
            if match and int(match[1]) < len(self.sequences):
                shape = self.sequences[int(match[1])].features.get(match[2] or "")
                if shape is not None:
                    raise no_token_ids(error, shape) from None
            raise

    def parts(self, options: EncodeOptions, model: Model | None) -> Iterator[slice]:
        """Cut the batch into requests that keep the model's limits, in order; without a model it is
        one request. A sequence that breaks a limit by itself is left to the server to refuse.
        """
        start, size = 0, _Size()
        for index, sequence in enumerate(self.sequences if model else []):
            assert model is not None
            own = _Size.of(sequence, options, model)
            if self.states:
                own.request_bytes += sum(a.nbytes for a in self.states[index])
                own.request_bytes += _STATE_OVERHEAD_BYTES
            together = size + own
            if index > start and not together.keeps_limits(model):
                yield slice(start, index)
                start, together = index, own
            size = together
        if self.sequences:
            yield slice(start, len(self.sequences))


def _check_rows(
    result: Encoding, infos: Mapping[str, OutputInfo], sequence: Inputs, name: str
) -> None:
    """Raises a `ServerError` if an output has not the rows that the server says it has."""
    for output, info in infos.items():
        if info.per_step and not info.sparse and output in result:
            rows, shape = info.rows(sequence.steps), result[output].shape
            if shape[:1] != (rows,):
                raise broken_reply(f"{name}: {output} of shape {list(shape)}, not of {rows} rows")


@dataclass(slots=True)
class _Size:
    """What sequences count against the limits of one request."""

    sequences: int = 0
    tokens: int = 0
    inputs: int = 0  # by name
    request_bytes: int = 0
    reply_bytes: int = 0

    @classmethod
    def of(cls, sequence: Inputs, options: EncodeOptions, model: Model) -> Self:
        """That of one sequence. What the server would refuse has a size, too."""
        itemsize = tensors.dtype_of(options.data_type).itemsize
        reply_bytes = _state_elements(model) * itemsize if "state" in options.outputs else 0
        for info in model.output_infos:
            if info.name in options.outputs:
                row_bytes = _ID_BYTES if info.ids else info.width * itemsize
                reply_bytes += row_bytes * (info.rows(sequence.steps) if info.per_step else 1)
        inputs = len(sequence.arrays) if sequence.are_named else 0
        return cls(1, sequence.steps, inputs, sequence.message_bytes, reply_bytes)

    def __add__(self, other: _Size) -> _Size:
        return _Size(
            self.sequences + other.sequences,
            self.tokens + other.tokens,
            self.inputs + other.inputs,
            self.request_bytes + other.request_bytes,
            self.reply_bytes + other.reply_bytes,
        )

    def keeps_limits(self, model: Model) -> bool:
        limits = model.limits
        return (
            self.sequences <= limits.max_request_sequences
            and self.tokens <= limits.max_request_tokens
            and self.inputs <= MAX_MESSAGE_INPUTS
            and max(self.request_bytes, self.reply_bytes) <= limits.max_message_bytes
        )


def _state_elements(model: Model) -> int:
    """How many numbers one sequence's hidden and cell state have: L*K*(P + H)."""
    width = model.proj_size or model.hidden_size
    return model.num_layers * (2 if model.bidirectional else 1) * (width + model.hidden_size)


def _kind(sequence: Inputs) -> str:
    return "a dict of inputs" if sequence.are_named else "an array"
