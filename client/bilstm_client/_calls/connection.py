"""`BaseClient`: what both clients hold and decide, without any I/O: the target, timeouts, being
closed or in another process, remembered models, and grpc's errors as the client's own.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, Generic, TypeVar

import grpc

from ..errors import (
    Cancelled,
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    ModelNotFound,
    Unavailable,
)
from ..types import Model
from .retries import Attempts, Retries
from .status import broken_reply, through, typed_errors
from .target import Target

DEFAULT_TIMEOUT_SECONDS = 30.0
_MAX_TIMEOUT_SECONDS = 1e8  # three years; gRPC's own times end a little later

ModelKey = tuple[str, str]  # name and version, as the caller gives them
DEFAULT_MODEL: ModelKey = ("", "")
NO_SEQUENCES = slice(0, 0)


def finite_seconds(seconds: Any) -> float:
    """A timeout, if it is one: `TypeError` or `ValueError` if not."""
    if not isinstance(seconds, Real):
        raise TypeError(f"timeout_seconds must be a number, got {seconds!r}")
    if not math.isfinite(seconds):
        raise ValueError(f"timeout_seconds must be a finite number, got {seconds!r}")
    return min(float(seconds), _MAX_TIMEOUT_SECONDS)


R = TypeVar("R")
S = TypeVar("S")  # how a client's streams run


class BaseClient(Generic[S]):
    """See the module."""

    def __init__(self, target: str, timeout_seconds: float):
        self.target = target
        self._address = Target.of(target)
        self.streams: set[S] = set()  # that run
        self._timeout_seconds = finite_seconds(timeout_seconds)
        self._closed = False
        self._process = os.getpid()
        self._retries = Retries()
        self._models: dict[ModelKey, Model] = {}  # whose limits batches are cut by

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked process's copy. gRPC's threads and locks are its parent's: a
        call of it would hang, or end the process."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Before anything of grpc is touched."""
        if self.is_inherited:
            raise RuntimeError(
                f"the client was made by process {self._process}, of which this is a fork; make "
                "one in each process (and start processes by spawn where others are calling)"
            )

    def _check_open(self) -> None:
        self.check_process()
        if self._closed:
            raise ValueError("the client is closed")

    def _begin(self, timeout_seconds: float | None) -> float:
        """What every call does first. Returns its timeout."""
        self._check_open()
        return self._timeout_seconds if timeout_seconds is None else finite_seconds(timeout_seconds)

    def _attempted(self, attempts: Attempts, error: EncoderError) -> None:
        """A call has ended so. Raises the error if it is not to be sent again: no call changes
        anything on the server, so one that a server did not serve is. A server that stops ends
        those that it had not yet seen as CANCELLED."""
        if isinstance(error, Unavailable | Cancelled) and not self._closed:
            attempts.failed(error, time.monotonic())
            return
        if not isinstance(error, DeadlineExceeded | Cancelled):
            self._retries.served()
        raise error

    def _pause(self, attempts: Attempts) -> float:
        """Seconds until this is to be asked again, before another attempt; 0: it is time."""
        if self._closed:
            raise Cancelled(grpc.StatusCode.CANCELLED, "the client was closed")
        return attempts.pause(time.monotonic())

    @staticmethod
    def _readable(response: R | None) -> R:
        """A reply; gRPC gives None in the place of one that is not there, or can't be read."""
        if response is None:
            raise broken_reply("it is no message of this service")
        return response

    @contextmanager
    def calling(self, key: ModelKey = DEFAULT_MODEL, part: slice = NO_SEQUENCES) -> Iterator[None]:
        """Around one RPC, for the model of `key` and the sequences `part` of the caller's batch:
        what it raises is the client's own, and a model that may have changed is forgotten."""
        try:
            with typed_errors(part, self._address.proxy):
                yield
        except (InvalidInput, ModelNotFound):
            self._models.pop(key, None)
            raise
        except ValueError:
            self._check_open()  # grpc's word for a channel that was closed since the call began
            raise

    def through_proxy(self, error: EncoderError) -> EncoderError:
        """The error, with the name of the proxy that it may be about."""
        return through(self._address.proxy, error)
