"""What the caller asks of a stream, checked, and how long a lost server is waited for. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from bilstm.v1 import encoder_pb2 as pb

from . import _core
from ._sending import opening
from ._states import SaveStates
from .types import DEFAULT_IN_FLIGHT, DataTypeName, Live, OnError, OutputName, whole_number

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the caller asks of a stream; the defaults are those of both clients."""

    encode: _core.EncodeOptions
    in_flight: int
    ordered: bool
    in_chunks: bool
    returns_errors: bool
    live: Live | None
    save_states: SaveStates | None

    @classmethod
    def of(
        cls,
        *,
        in_chunks: bool,
        on_error: OnError,
        live: Live | None = None,
        save_states: SaveStates | None = None,
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        outputs: Iterable[OutputName] = ("states",),
        model: str = "",
        version: str = "",
        output_data_type: DataTypeName = "float32",
    ) -> Self:
        """Raises `TypeError` or `ValueError` for what can't be."""
        encode = _core.EncodeOptions.of(outputs, output_data_type, model, version)
        in_flight = whole_number(in_flight, "in_flight", 1)
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error must be 'raise' or 'return', got {on_error!r}")
        if live is not None and not isinstance(live, Live):
            raise TypeError(f"live must be a Live, got {type(live).__name__}")
        if save_states is not None and not callable(save_states):
            given = type(save_states).__name__
            raise TypeError(f"save_states must be a function from key to path, got {given}")
        if save_states is not None and pb.OUTPUT_STATES not in encode.outputs:
            raise ValueError("save_states needs 'states' among the outputs")
        returns_errors = on_error == "return"
        return cls(encode, in_flight, ordered, in_chunks, returns_errors, live, save_states)

    def opening(self) -> bytes:
        """A call's first request."""
        options = pb.StreamOptions(
            model=self.encode.model,
            version=self.encode.version,
            outputs=self.encode.outputs,
            output_data_type=self.encode.data_type,
            any_order=not self.ordered,
        )
        if self.live is not None:
            options.live.block_steps = self.live.block_steps
            options.live.lookahead_steps = self.live.lookahead_steps
        return opening(options)


class Patience:
    """When to try again where a server is lost, and when to give up.

    A server that takes the call is not enough: what it is sent may be what brings it down.
    """

    def __init__(self, seconds: float, spread: Callable[[float, float], float] = random.uniform):
        """`spread`: between two bounds, so that not all clients of a server come at once."""
        self.failing_since: float | None = None
        self._seconds = seconds
        self._spread = spread
        self._connected_at: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS

    @property
    def is_waiting(self) -> bool:
        """Whether a server is being waited for."""
        return self.failing_since is not None

    def connected(self, now: float) -> None:
        """A server has taken the call."""
        self._connected_at = now

    def progressed(self) -> None:
        """It has answered something."""
        self.failing_since = None
        self._pause = _FIRST_PAUSE_SECONDS

    def pause(self, now: float, said: float | None = None) -> float | None:
        """Seconds until the next attempt, not less than the server has said; None: there has been
        no progress for too long, or will have been by then."""
        connected_at, self._connected_at = self._connected_at, None
        if connected_at is not None and now - connected_at >= self._seconds:
            self.progressed()  # it was there for long: this is another failure
        if self.failing_since is None:
            self.failing_since = now
        left = self.failing_since + self._seconds - now
        if left <= 0 or (said is not None and said > left):
            return None
        pause = self._pause * self._spread(0.5, 1.5)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        if said is not None:
            pause = max(pause, said * self._spread(1.0, 1.2))
        return min(pause, left)
