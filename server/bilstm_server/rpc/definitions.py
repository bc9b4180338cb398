"""`ServiceDefinition`: what a service tells the server of itself, so that a second one needs no
change in the server, in the interceptors, or in reflection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

Decode = Callable[[bytes], Any]


def _admit_any() -> None:
    """Refuse nobody."""


@dataclass(frozen=True, slots=True)
class TensorMethod:
    """A method whose messages carry tensors, so that its service decodes and encodes them itself.

    It is given what `decode` returns and answers with bytes. If it has one reply, it is traced, a
    drain waits for it, and `--max-calls` bounds how many are in flight.
    """

    # Turns one message's bytes into the request. Raises `InvalidInput`.
    decode: Decode
    # Raises the error that every request would get now. It is asked before the request is read.
    check_door: Callable[[], None] = _admit_any


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    """One service that the server has, besides health and reflection."""

    descriptor: ServiceDescriptor
    add_to: Callable[[grpc.aio.Server], None]  # registers the methods' handlers, as stubs do
    # By name. The other methods are decoded as their handlers say, within narrow bounds.
    tensor_methods: Mapping[str, TensorMethod] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` if a tensor method is none of the service's."""
        unknown = set(self.tensor_methods) - set(self.descriptor.methods_by_name)
        if unknown:
            raise ValueError(f"{self.name} has no method {', '.join(sorted(unknown))}")

    @property
    def name(self) -> str:
        """The full name, package included, as health and reflection know it."""
        return str(self.descriptor.full_name)
