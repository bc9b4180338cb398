"""Who calls, and how urgent it is: what limits, shares, metrics and the log know of a caller."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


class Priority(IntEnum):
    """How urgent a call is, beside others of its caller and of all."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is. Callers of one name share its limits, and its part of the device's time."""

    name: str  # a token's, a certificate's subject, or the address of the connection's peer
    kind: Literal["token", "certificate", "peer"]
    max_priority: Priority = Priority.NORMAL  # the most that its calls may ask for
    models: frozenset[str] | None = None  # that it may use; None: all
