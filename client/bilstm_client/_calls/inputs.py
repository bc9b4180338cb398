"""`Inputs`: one sequence, or a part of one, ready for the wire: an array, or a dict of the model's
inputs by name. Knows no model and no limit of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from bilstm import tensors, wire
from bilstm.sizes import MAX_INPUTS, MAX_NAME_BYTES
from bilstm.v1 import encoder_pb2 as pb

from ..types import Array
from .arrays import are_features, as_sent, sent_bytes, to_array

_OVERHEAD_BYTES = 128  # more than a tensor's name, type, shape and field lengths take
_FIELDS = pb.NamedTensor.DESCRIPTOR.fields_by_name
_NAME, _TENSOR = (_FIELDS[name].number for name in ("name", "tensor"))


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The inputs of one sequence, or of some of its steps."""

    arrays: Mapping[str, Array]  # by name: "" for an array that was given without one

    @classmethod
    def of(cls, x: Any, name: str) -> Self:
        """What the caller gave: an array, or a dict of some. `TypeError`s call it `name`."""
        if not isinstance(x, Mapping):
            return cls({"": to_array(x, name)})
        return cls({key: to_array(x, field) for key, field, x in parts_of(x, name)})

    @property
    def are_named(self) -> bool:
        """Whether they were given by name."""
        return "" not in self.arrays

    @property
    def steps(self) -> int:
        """The steps that there are; where inputs differ, which the server refuses, the most."""
        return max(len(array) if array.ndim else 0 for array in self.arrays.values())

    @property
    def data_bytes(self) -> int:
        """The size of their numbers, as they are sent."""
        return sum(map(sent_bytes, self.arrays.values()))

    @property
    def message_bytes(self) -> int:
        """How much of a request they take, at most."""
        return self.data_bytes + _OVERHEAD_BYTES * len(self.arrays)

    @property
    def features(self) -> dict[str, list[int]]:
        """The shapes of those integers that are sent as floats, by name."""
        return {n: list(array.shape) for n, array in self.arrays.items() if are_features(array)}

    def as_tensor(self) -> pb.Tensor:
        """The array that was given without a name, as a message."""
        return tensors.encode(as_sent(self.arrays[""]))

    def as_message(self) -> pb.NamedInputs:
        """The arrays by name, as a message."""
        return pb.NamedInputs(
            inputs=[
                pb.NamedTensor(name=name, tensor=tensors.encode(as_sent(array)))
                for name, array in self.arrays.items()
            ]
        )

    def as_parts(self, unnamed: int, named: int) -> list[wire.Part]:
        """The arrays as bytes: fields of these numbers, for one without a name and for others."""
        fields: list[wire.Part] = []
        for name, array in self.arrays.items():
            tensor = tensors.encode_parts(as_sent(array))
            if name:
                tensor = wire.delimited(_NAME, [name.encode()]) + wire.delimited(_TENSOR, tensor)
            fields += wire.delimited(named if name else unnamed, tensor)
        return fields


def parts_of(x: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    """The inputs that the caller gave, each with its name, what errors call it, and itself; the
    name is empty for what is no dict. Raises `TypeError` for a dict that is none of inputs."""
    if not isinstance(x, Mapping):
        yield "", name, x
        return
    if not 1 <= len(x) <= MAX_INPUTS:
        raise TypeError(f"{name}: must be a dict of 1 to {MAX_INPUTS} inputs, got {len(x)}")
    for key, value in x.items():
        if not isinstance(key, str) or not 1 <= len(key.encode()) <= MAX_NAME_BYTES:
            raise TypeError(f"{name}: must be a dict of inputs by name, got {key!r}")
        yield key, f"{name}.{key}", value
