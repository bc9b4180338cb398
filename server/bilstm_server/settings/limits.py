"""Every limit, once, in the groups that rooms take: `BatchQueue` a `QueueLimits`, and so on.

`Settings` inherits from all of them, and so is each of them. What follows from several limits is a
property of the group whose rooms need it. To read a limit takes a tenth of a microsecond; a loop
reads it before.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from .types import Bytes, Count, Seconds, SecondsOrNone, WireBytes


class _Limits(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MessageLimits(_Limits):
    """How large a message may be."""

    max_message_bytes: WireBytes = Field(
        default=16 * 1024 * 1024,
        description="Bytes of one request, or of one reply's tensors. gRPC puts a message together "
        "in one go, a millisecond a megabyte in which no other call is answered; streams take "
        "what is larger.",
    )


class CallLimits(MessageLimits):
    """What one call of `Encode` may bring."""

    max_sequence_tokens: Count = Field(
        default=16_384, description="Tokens (steps) of one sequence."
    )
    max_request_sequences: Count = Field(default=1_024, description="Sequences in one request.")


class QueueLimits(_Limits):
    """What may wait for one model, and what of that is computed together."""

    max_batch_tokens: Count = Field(
        default=16_384, description="Tokens computed together, and so the most in one request."
    )
    max_batch_sequences: Count = Field(default=256, description="Sequences computed together.")
    max_queue_tokens: Count = Field(
        default=131_072,
        description="Tokens that may wait for each model; what comes beyond is refused.",
    )
    max_queue_sequences: Count = Field(
        default=16_384,
        description="Sequences that may wait for each model; what comes beyond is refused.",
    )
    max_queue_delay: SecondsOrNone = Field(
        default=0.0,
        description="Seconds that a batch may wait for more sequences while the device is idle.",
    )
    max_whole_tokens: Count = Field(
        default=2_048,
        description="Tokens of a sequence that is computed whole; a longer one is computed in "
        "slices, between which short ones have their turn.",
    )
    slice_seconds: Seconds = Field(
        default=0.002,
        description="Seconds that one slice of long sequences is to take; ten times that where "
        "nothing else has come for a second.",
    )
    max_queue_seconds: SecondsOrNone = Field(
        default=2.0,
        description="Seconds for which a request may have to wait, as far as that is known; what "
        "would have to wait longer is refused.",
    )

    @property
    def whole_tokens(self) -> int:
        """The most tokens of a sequence that is computed whole: no more than a batch may have."""
        return min(self.max_whole_tokens, self.max_batch_tokens)


class ConnectionLimits(MessageLimits):
    """How many connections there may be, and what each may ask for."""

    max_connections: Count = Field(
        default=1_024, description="Connections that may be open; one more is closed at once."
    )
    connection_idle_seconds: Seconds = Field(
        default=600.0,
        le=2e6,  # gRPC counts milliseconds in 32 bits
        description="Seconds without a call after which a connection is closed; clients connect "
        "anew by themselves.",
    )
    max_connection_calls: Count = Field(
        default=256,
        description="Calls and streams that one connection may have in flight; more of them wait "
        "in the client.",
    )
    max_calls: Count = Field(
        default=4_096, description="Calls that may be in flight; one more is refused."
    )
    max_metadata_bytes: WireBytes = Field(
        default=16 * 1024, description="Bytes of a call's metadata; one with more is refused."
    )


class ReceiveLimits(MessageLimits):
    """What requests may hold, and for how long, until all of their bytes have come."""

    max_receive_bytes: Bytes = Field(
        default=512 * 1024**2,
        description="Bytes that requests may hold which do not come at once: as many requests as "
        "may be of --max-message-bytes each. Beyond, the slowest is refused.",
    )
    receive_seconds: Seconds = Field(
        default=30.0, description="Seconds in which a request must have come."
    )

    @property
    def max_slow_requests(self) -> int:
        """The most requests that may be on their way for long, each as large as a message may be;
        at least one."""
        return max(1, self.max_receive_bytes // self.max_message_bytes)


class ReplyLimits(_Limits):
    """What replies may hold, and for how long, until their callers have taken them."""

    max_reply_bytes: Bytes = Field(
        default=1024**3,
        description="Bytes of all replies that are computed or on their way. Beyond, connections "
        "that do not take theirs are closed, and calls are refused.",
    )
    max_connection_reply_bytes: Bytes = Field(
        default=256 * 1024**2,
        description="The same of one connection, unless it is one of a unix socket; what comes "
        "beyond is refused.",
    )
    reply_seconds: Seconds = Field(
        default=60.0,
        description="Seconds in which a reply must have been taken; its connection is closed then.",
    )


class StreamLimits(_Limits):
    """How many streams there may be, what they may hold, and for how long they may stand still."""

    max_streams: Count = Field(
        default=128, description="Streams that may be open; one more is refused."
    )
    max_connection_streams: Count = Field(
        default=64,
        description="Streams that one connection may have open, unless it is one of a unix "
        "socket; one more is refused.",
    )
    stream_idle_seconds: Seconds = Field(
        default=300.0,
        description="Seconds without progress, by its client's fault, after which a stream is "
        "ended; a tenth of that where others wait for what it holds, memory or its place.",
    )
    max_stream_sequences: Count = Field(
        default=1_024, description="Sequences that one stream may have in flight."
    )
    max_stream_bytes: Bytes = Field(
        default=4 * 1024**3,
        description="Bytes that one stream may have in flight, with its results: beyond, the "
        "server reads no further. A sequence must fit with its result.",
    )
    max_streams_bytes: Bytes = Field(
        default=8 * 1024**3, description="Bytes that all streams together may have in flight."
    )

    @property
    def stream_wanted_seconds(self) -> float:
        """The seconds without progress after which a stream is ended for others that wait for what
        it holds, memory or its place."""
        return self.stream_idle_seconds / 10


class RequestLimits(StreamLimits, QueueLimits, CallLimits):
    """What clients may send, in a call or in a stream; they can ask for these limits."""

    @property
    def max_request_tokens(self) -> int:
        """The most tokens of one call's sequences: as many as one batch may have."""
        return self.max_batch_tokens

    @property
    def max_block_tokens(self) -> int:
        """The most tokens of a live block and its look-ahead, which are computed whole."""
        return self.whole_tokens
