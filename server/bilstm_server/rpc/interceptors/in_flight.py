"""`CallsInFlight`: how many unary calls there are, how many there may be, and when a drain finds
none. Streams are not counted here.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from ...callers import Caller
from ...errors import Overloaded
from ...metrics import DropMetrics
from ..context import Context
from ..identity import peer_name
from .method import Method, Respond
from .outcomes import current_call

_RETRY_SECONDS = 0.1  # a guess: until one of many calls has ended
_LOOK_SECONDS = 0.005  # from one look for new calls to the next

# The two kinds are counted apart, so that neither keeps the other out: health is told however many
# calls with tensors there are.
Kind = Literal["tensor", "plain"]


class CallsInFlight:
    """The layer that counts unary calls. A drain waits for those of tensor methods."""

    def __init__(self, max_calls: int, no_model: DropMetrics):
        """Allow `max_calls` of each kind. `no_model` counts the calls with tensors that are
        refused."""
        self._max_calls = max_calls
        self._no_model = no_model
        self._counts: dict[Kind, int] = {"tensor": 0, "plain": 0}
        self._begun = 0  # calls with tensors, since the start
        self._ended = asyncio.Event()  # one of those in flight

    def around(self, method: Method, respond: Respond) -> Respond:
        """Count the method's calls, and refuse one too many as `Overloaded`."""
        if method.is_stream:
            return respond
        kind: Kind = "plain" if method.tensor is None else "tensor"

        async def counted(requests: object, context: Context) -> bytes | None:
            self._counts[kind] += 1
            self._begun += kind == "tensor"
            try:
                self._check(kind, context)
                return await respond(requests, context)
            finally:
                self._counts[kind] -= 1
                self._ended.set()

        return counted

    def _check(self, kind: Kind, context: Context) -> None:
        if self._counts[kind] > self._max_calls:
            if kind == "tensor":
                self._no_model.drop("overloaded")
            current_call.get().caller = Caller(peer_name(context.peer()), "peer")  # for the log
            raise Overloaded(f"{self._max_calls} calls are in flight, no more may", _RETRY_SECONDS)

    @property
    def count(self) -> int:
        """The calls of tensor methods that are in flight."""
        return self._counts["tensor"]

    async def pause(self, seconds: float, at_most: float) -> None:
        """Wait until no call of a tensor method has begun for `seconds` from now on, but no longer
        than `at_most` seconds.

        They are counted in short sleeps, not by the clock: where processors are short, gRPC's
        threads come to their calls as late as this does to its next look.
        """
        quiet = waited = 0.0
        while quiet < seconds and waited < at_most:
            begun = self._begun
            await asyncio.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
            quiet = quiet + _LOOK_SECONDS if self._begun == begun else 0.0

    async def ended(self) -> None:
        """Wait until no call of a tensor method is in flight."""
        while self.count:
            self._ended.clear()
            await self._ended.wait()
