"""`Session`: what a client keeps from call to call, without any I/O: the server's address, defaults
of timeout and metadata, whether it is closed or in another process, models that it remembers, and
what all calls know of a server that fails.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import grpc

from ..errors import (
    Cancelled,
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    ModelNotFound,
    NotTrusted,
    Unauthenticated,
    Unavailable,
)
from ..types import Metadata, Model
from .metadata import AUTHORIZATION, Headers, has, headers_of, joined
from .retries import Attempts, Retries
from .status import through, typed_errors, worded
from .target import Target
from .tls import Tls
from .tokens import Token

DEFAULT_TIMEOUT_SECONDS = 30.0
_MAX_TIMEOUT_SECONDS = 1e8  # three years; gRPC's own times end a little later

ModelKey = tuple[str, str]  # name and version, as the caller gives them
DEFAULT_MODEL: ModelKey = ("", "")
NO_SEQUENCES = slice(0, 0)
_TOKEN_WAYS = "give it as token=, --token-file or BILSTM_TOKEN"


def finite_seconds(seconds: Any) -> float:
    """A timeout, if it is one: `TypeError` or `ValueError` if not."""
    if not isinstance(seconds, Real) or isinstance(seconds, bool):
        raise TypeError(f"timeout_seconds must be a number, got {seconds!r}")
    if not math.isfinite(seconds):
        raise ValueError(f"timeout_seconds must be a finite number, got {seconds!r}")
    return min(float(seconds), _MAX_TIMEOUT_SECONDS)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method, which may send several requests: its deadline and its headers."""

    timeout_seconds: float
    deadline: float  # on the clock of time.monotonic
    headers: Headers = field(repr=False)  # the caller's own, which may be secret
    token: Token | None  # that each attempt carries, too

    def sent_headers(self) -> Headers:
        """What an attempt carries: the headers, and the token as it is now. Raises
        `Unauthenticated` where none can be had."""
        return self.headers if self.token is None else (*self.headers, self.token.header())

    def renewed_headers(self, refused: Headers) -> Headers | None:
        """The same with another token than that of an attempt that a server has just refused, if
        there is one by now."""
        if self.token is None:
            return None
        headers = (*self.headers, self.token.header(anew=True))
        return None if headers == refused else headers

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def within(self, seconds: float) -> Call:
        """The same call, with a deadline in no more than so many seconds."""
        return replace(self, deadline=min(self.deadline, time.monotonic() + seconds))


class Session:
    """What a client keeps from call to call."""

    def __init__(
        self,
        target: str,
        address: Target,
        tls: Tls | None,
        token: Token | None,
        timeout_seconds: float,
        metadata: Metadata | None,
    ):
        """`target`: as it was given; `address`: the same, as it was read."""
        self.target = target
        self.address = address
        self.tls = tls
        self.is_closed = False
        self.retries = Retries()
        self.models: dict[ModelKey, Model] = {}  # whose limits batches are cut by
        self._timeout_seconds = finite_seconds(timeout_seconds)
        self._headers = headers_of(metadata)
        self._token = token
        self._process = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked process's copy. gRPC's threads and locks are its parent's: a
        call of it would hang, or end the process."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Raises `RuntimeError` in a forked process, before anything of grpc is touched."""
        if self.is_inherited:
            raise RuntimeError(
                f"the client was made by process {self._process}, of which this is a fork; make "
                "one in each process (and start processes by spawn where others are calling)"
            )

    def check_open(self) -> None:
        """Raises `ValueError` once the client is closed, and what `check_process` does."""
        self.check_process()
        if self.is_closed:
            raise ValueError("the client is closed")

    def begin(self, timeout_seconds: float | None, metadata: Metadata | None) -> Call:
        """What every call does first: the client must be open, and the caller's options good."""
        self.check_open()
        seconds = self._timeout_seconds
        if timeout_seconds is not None:
            seconds = finite_seconds(timeout_seconds)
        headers = joined(self._headers, headers_of(metadata))
        token = None if has(headers, AUTHORIZATION) else self._token
        return Call(seconds, time.monotonic() + seconds, headers, token)

    def failed(self, attempts: Attempts, error: EncoderError) -> None:
        """An attempt has ended with this error, which is raised if there is to be no other one.

        No call changes anything on the server, so each may be sent again that a server did not
        serve. A server that stops ends those that it had not yet seen as CANCELLED."""
        is_lost = isinstance(error, Unavailable | Cancelled) and not isinstance(error, NotTrusted)
        if is_lost and self.is_closed:
            raise self.closed_error() from error
        if is_lost:
            attempts.failed(error, time.monotonic())
            return
        if not isinstance(error, DeadlineExceeded | Cancelled | NotTrusted):
            self.retries.served()
        raise error

    def pause(self, attempts: Attempts) -> float:
        """Seconds after which this is to be asked again; 0 if the next attempt may be made now."""
        if self.is_closed:
            raise self.closed_error()
        return attempts.pause(time.monotonic())

    def closed_error(self) -> Cancelled:
        """How a call ends during which the client is closed."""
        return Cancelled(grpc.StatusCode.CANCELLED, "the client was closed")

    @contextmanager
    def calling(self, key: ModelKey = DEFAULT_MODEL, part: slice = NO_SEQUENCES) -> Iterator[None]:
        """Around one RPC, for the model of `key` and the sequences `part` of the caller's batch:
        what it raises is the client's own, and a model that may have changed is forgotten."""
        try:
            with typed_errors(part, self.address, self.tls):
                yield
        except Unauthenticated as error:
            if self._token is None:
                worded(error, f"{error.message} (the client has no token: {_TOKEN_WAYS})")
            raise
        except (InvalidInput, ModelNotFound):
            self.models.pop(key, None)
            raise
        except ValueError:
            self.check_open()  # grpc's word for a channel that was closed since the call began
            raise

    def through_proxy(self, error: EncoderError) -> EncoderError:
        """The error, with the name of the proxy that it may be about."""
        return through(self.address.proxy, error)
