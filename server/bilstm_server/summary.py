"""What the server says of itself, in words: on its page, to probes and to health checks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SERVING = "serving"
HANGS = "hangs"  # its event loop, or its engine
FAILED = "failed"  # it computes no more


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model that is served."""

    name: str
    version: str
    sizes: str


@dataclass(frozen=True, slots=True)
class ServerSummary:
    """The server's state, and the models that it serves."""

    state: str  # SERVING, or a word for why the server is not
    models: Sequence[ModelSummary] = ()

    @property
    def lives(self) -> bool:
        """Whether the server works, or will by itself."""
        return self.state not in (HANGS, FAILED)
