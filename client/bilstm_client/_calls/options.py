"""`EncodeOptions`: how the sequences of a call are to be encoded, in the wire's numbers. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from bilstm.sizes import MAX_NAME_BYTES
from bilstm.v1 import encoder_pb2 as pb

from ..types import DATA_TYPES, OUTPUTS, DataTypeName, Outputs

# The one place where the caller's names meet the wire's numbers. Other outputs have names alone.
_NUMBERS = {pb.Output.Name(number): number for number in pb.Output.values() if number}
OUTPUT_NUMBERS = {name.removeprefix("OUTPUT_").lower(): n for name, n in _NUMBERS.items()}
OUTPUT_NAMES = {number: name for name, number in OUTPUT_NUMBERS.items()}
_DATA_TYPES: Mapping[str, pb.DataType.ValueType] = {
    name: pb.DataType.Value(f"DATA_TYPE_{name.upper()}") for name in DATA_TYPES
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How each sequence of a call is to be encoded."""

    outputs: tuple[str, ...]
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
        """Raises `TypeError` or `ValueError` for what can't be a name, or is none of a type."""
        if output_data_type not in _DATA_TYPES:
            there_are = ", ".join(_DATA_TYPES)
            raise ValueError(f"{output_data_type!r} is no output_data_type; there are: {there_are}")
        data_type = _DATA_TYPES[output_data_type]
        return cls(output_names(outputs), data_type, model, str(version))  # 1 is "1", too

    @property
    def model_key(self) -> tuple[str, str]:
        return self.model, self.version

    @property
    def numbered(self) -> list[pb.Output.ValueType]:
        """The outputs by number, if each has one: else all are `named`. So an error's index is the
        caller's own."""
        if all(name in OUTPUT_NUMBERS for name in self.outputs):
            return [OUTPUT_NUMBERS[name] for name in self.outputs]
        return []

    @property
    def named(self) -> tuple[str, ...]:
        """The outputs by name, if they are not `numbered`."""
        return () if self.numbered else self.outputs


def output_names(outputs: Outputs) -> tuple[str, ...]:
    """The names of outputs, one or more. Only the server knows whether its model has them."""
    if not isinstance(outputs, Iterable):
        raise TypeError(f"outputs must be a name or a list of names, got {outputs!r}")
    names: tuple[Any, ...] = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    if not names:
        raise ValueError(f"outputs must name one or more of: {', '.join(OUTPUTS)}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"outputs must be names, got {name!r}")
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
            there_are = ", ".join(OUTPUTS)
            raise ValueError(f"{name!r} is no output; there are: {there_are}, and a model's own")
    return names
