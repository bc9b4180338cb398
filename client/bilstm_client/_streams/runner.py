"""`StreamRunner`: what both clients' ways of running a `Stream` have in common: what ends it, and
what is to be done once a call has given a reply, or ended.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager

from bilstm.v1 import encoder_pb2 as pb

from .._calls.metadata import Headers
from .._calls.session import Call, Session
from ..errors import Cancelled, EncoderError, Overloaded, Unauthenticated, Unavailable
from .stream import Stream

Lost = Unavailable | Cancelled | Overloaded  # how a server is lost
ENDS_CALL = (Unavailable, Cancelled, Overloaded, Unauthenticated)  # after which another may help
_log = logging.getLogger("bilstm_client")


class StreamRunner:
    """One running stream of a client, until it ends."""

    def __init__(self, session: Session, options: Call, stream: Stream):
        self._session = session
        self._options = options  # of each call that it makes
        self._stream = stream
        self._headers: Headers = ()  # of the present call
        self._renewed = False  # whether the call before was refused, and has had no reply
        self._failure: BaseException | None = None  # raised by the source, or by chunks
        self._stopped = False  # whether the caller has left
        self._is_reading = False  # whether the caller waits for a reply

    @property
    def _is_over(self) -> bool:
        """Whether the source is to be asked for no more, and no server waited for."""
        return self._stopped or self._failure is not None or self._session.is_closed

    def _check(self) -> None:
        """Raise what ends the stream, if anything does. To be called outside of any handler, so
        that what the source has raised is raised as it is."""
        self._session.check_process()
        if self._failure is not None:
            raise self._failure
        if self._session.is_closed:
            raise self._session.closed_error()

    def _next_headers(self) -> Headers:
        """What the next call carries."""
        self._headers = self._options.sent_headers()
        return self._headers

    def _renew(self, refusal: Unauthenticated) -> None:
        """The server has refused the present call's token. Raises that, unless there is another one
        by now. To be called outside of any lock, as it may ask the caller's function."""
        if self._stream.is_finished:
            return
        if self._renewed or self._options.renewed_headers(self._headers) is None:
            raise refusal
        self._renewed = True

    def _calling(self) -> AbstractContextManager[None]:
        return self._session.calling(self._stream.options.encode.model_key)

    def _given_up(self) -> EncoderError:
        return self._session.through_proxy(self._stream.given_up())

    def _report(self) -> None:
        """Call the caller's `progress`, if there is one."""
        if self._stream.options.progress is not None:
            self._stream.options.progress(self._stream.progress())

    def _pause_after(
        self, response: pb.EncodeStreamResponse | None, ended: Lost | Unauthenticated | None
    ) -> float:
        """A call has given a reply, or has ended: by itself, lost, or refused with a token that is
        not the newest. Returns the seconds to wait before the next call, or 0 if there is nothing
        to wait for; raises what ends the stream."""
        if self._stream.is_finished:
            return 0
        self._check()
        if ended is not None:
            was_waiting = self._stream.is_waiting
            seconds = self._stream.interrupted(ended, time.monotonic())
            if not (was_waiting or isinstance(ended, Unauthenticated)):
                _log.info("waiting for a server at %s …", self._session.target)
            return seconds
        if response is None:
            self._stream.check_finished()
        self._renewed = False
        return 0
