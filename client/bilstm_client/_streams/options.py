"""`StreamOptions`: what the caller asks of a stream, checked. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from bilstm.v1 import encoder_pb2 as pb

from .._calls.options import EncodeOptions
from ..types import DEFAULT_IN_FLIGHT, Live, OnError, Progress, SaveStates, whole_number
from .sending import opening


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the caller asks of a stream."""

    encode: EncodeOptions
    in_flight: int
    ordered: bool
    returns_errors: bool
    in_chunks: bool
    live: Live | None
    save_states: SaveStates | None
    progress: Callable[[Progress], None] | None

    @classmethod
    def of(
        cls,
        encode: EncodeOptions,
        on_error: OnError = "raise",
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        save_states: SaveStates | None = None,
        progress: Callable[[Progress], None] | None = None,
        *,
        in_chunks: bool = False,
        live: Live | None = None,
    ) -> Self:
        """Raises `TypeError` or `ValueError` for options that no stream can have."""
        in_flight = whole_number(in_flight, "in_flight", 1)
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error must be 'raise' or 'return', got {on_error!r}")
        if live is not None and not isinstance(live, Live):
            raise TypeError(f"live must be a Live, got {type(live).__name__}")
        if save_states is not None and not callable(save_states):
            given = type(save_states).__name__
            raise TypeError(f"save_states must be a function from key to path, got {given}")
        if save_states is not None and "states" not in encode.outputs:
            raise ValueError("save_states needs 'states' among the outputs")
        if progress is not None and not callable(progress):
            given = type(progress).__name__
            raise TypeError(f"progress must be a function that takes a Progress, got {given}")
        returns_errors = on_error == "return"
        return cls(
            *(encode, in_flight, ordered, returns_errors, in_chunks, live, save_states, progress)
        )

    def opening(self) -> bytes:
        """The first request of each call, as bytes."""
        options = pb.StreamOptions(
            model=self.encode.model,
            version=self.encode.version,
            outputs=self.encode.numbered,
            output_names=self.encode.named,
            output_data_type=self.encode.data_type,
            any_order=not self.ordered,
        )
        if self.live is not None:
            options.live.block_steps = self.live.block_steps
            options.live.lookahead_steps = self.live.lookahead_steps
        return opening(options)
