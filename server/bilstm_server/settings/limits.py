"""Every limit, once, in the groups that rooms take: `BatchQueue` a `QueueLimits`, and so on.

`Settings` inherits from all of them, and so is each of them. What follows from several limits is a
property of the group whose rooms need it. To read a limit costs more than a plain attribute, so a
loop reads it before.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from .types import (
    Bytes,
    CallerPriorities,
    CallerShares,
    Count,
    CountOrAll,
    Seconds,
    SecondsOrEver,
    SecondsOrNone,
    WireBytes,
)


class _Limits(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MessageLimits(_Limits):
    """How large a message may be."""

    max_message_bytes: WireBytes = Field(
        default=16 * 1024 * 1024,
        description="The most bytes of one request, or of the tensors of one reply. gRPC puts a "
        "message together in one go, about a millisecond a megabyte, and no other call is answered "
        "meanwhile. Streams take what is larger.",
    )


class CallLimits(MessageLimits):
    """What one call of `Encode` may bring."""

    max_sequence_tokens: Count = Field(
        default=16_384, description="The most tokens (steps) that one sequence may have."
    )
    max_request_sequences: Count = Field(
        default=1_024, description="The most sequences that one request may have."
    )


class CallerLimits(_Limits):
    """What single callers have of what all callers share."""

    caller_share: CallerShares = Field(
        default=(),
        description="The weight of a caller's part of the device's time and of the queue's room, "
        "as NAME=WEIGHT; that of others is 1. NAME is a token's name, a certificate's common name, "
        "or an address. Repeat the flag for more, or separate them by commas.",
    )
    caller_priority: CallerPriorities = Field(
        default=(),
        description="The highest priority that a caller's calls may ask for, as NAME=low, "
        "NAME=normal or NAME=high; that of others is normal. Repeat the flag for more, or separate "
        "them by commas.",
    )


class QueueLimits(CallerLimits):
    """What may wait for one model, and what of that is computed together."""

    max_batch_tokens: Count = Field(
        default=16_384,
        description="The most tokens that are computed together, and so the most that one request "
        "may have.",
    )
    max_batch_sequences: Count = Field(
        default=256, description="The most sequences that are computed together."
    )
    max_queue_tokens: Count = Field(
        default=131_072,
        description="The most tokens that may wait for each model. A request beyond that is "
        "refused.",
    )
    max_queue_sequences: Count = Field(
        default=16_384,
        description="The most sequences that may wait for each model. A request beyond that is "
        "refused.",
    )
    max_queue_delay: SecondsOrNone = Field(
        default=0.0,
        description="The seconds that a batch may wait for more sequences while the device is "
        "idle.",
    )
    max_whole_tokens: Count = Field(
        default=2_048,
        description="The most tokens of a sequence that is computed whole. A longer one is "
        "computed in slices, and between them short ones have their turn.",
    )
    slice_seconds: Seconds = Field(
        default=0.002,
        description="The seconds that one slice of long sequences should take. It is ten times "
        "that where nothing else has come for a second.",
    )
    max_queue_seconds: SecondsOrNone = Field(
        default=2.0,
        description="The longest time in seconds that a request may have to wait, as far as that "
        "is known. A request that would have to wait longer is refused.",
    )

    @property
    def whole_tokens(self) -> int:
        """The most tokens of a sequence that is computed whole: no more than a batch may have."""
        return min(self.max_whole_tokens, self.max_batch_tokens)


class ConnectionLimits(MessageLimits):
    """How many connections there may be, and what each may ask for."""

    max_connections: Count = Field(
        default=1_024,
        description="The most connections that may be open. Beyond that the newest one of the "
        "address that has most is closed.",
    )
    max_peer_connections: CountOrAll = Field(
        default=0,
        description="The most connections that one address may have open, of IPv6 one network of "
        "64 bits. Beyond that its newest ones are closed. Loopback has no such limit: a proxy "
        "there brings everyone. 0 allows as many as --max-connections.",
    )
    handshake_seconds: Seconds = Field(
        default=10.0,
        le=2e6,  # gRPC counts milliseconds in 32 bits
        description="The seconds in which a new connection must have come as far as HTTP/2, TLS "
        "included. After that it is closed.",
    )
    connection_idle_seconds: Seconds = Field(
        default=600.0,
        le=2e6,
        description="The seconds without a call after which a connection is closed. Clients "
        "connect again by themselves.",
    )
    connection_age_seconds: SecondsOrEver = Field(
        default=3_600.0,
        le=2e6,
        description="The seconds, give or take a tenth, after which a connection takes no new "
        "calls, so that its client connects anew, and finds servers that were added. 0 lets it "
        "stay.",
    )
    connection_age_grace_seconds: SecondsOrEver = Field(
        default=0.0,
        le=2e6,
        description="The seconds that calls and streams have to end once their connection takes "
        "no new ones by its age. After that it is closed. 0 gives them as long as they take.",
    )
    max_connection_calls: Count = Field(
        default=256,
        description="The most calls and streams that one connection may have in flight. More of "
        "them wait in the client.",
    )
    max_calls: Count = Field(
        default=4_096, description="The most calls that may be in flight. One more is refused."
    )
    max_metadata_bytes: WireBytes = Field(
        default=16 * 1024,
        description="The most bytes of metadata that a call may have. A call with more is refused.",
    )


class ReceiveLimits(MessageLimits):
    """What requests may hold, and for how long, until all of their bytes have come."""

    max_receive_bytes: Bytes = Field(
        default=512 * 1024**2,
        description="The most bytes that slow requests may hold, those that do not come at once. "
        "Each is counted as --max-message-bytes. Beyond that the slowest one is refused.",
    )
    receive_seconds: Seconds = Field(
        default=30.0, description="The seconds within which a request must have come."
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
        description="The most bytes of all replies that are computed or on their way. Beyond "
        "that, connections that do not take their replies are closed, and calls are refused.",
    )
    max_connection_reply_bytes: Bytes = Field(
        default=256 * 1024**2,
        description="The most bytes of replies to one connection that are computed or on their "
        "way. Calls beyond that are refused. A connection of a unix socket has no limit of its "
        "own.",
    )
    reply_seconds: Seconds = Field(
        default=60.0,
        description="The seconds within which a caller must have taken a reply. After that its "
        "connection is closed.",
    )


class StreamLimits(_Limits):
    """How many streams there may be, what they may hold, and for how long they may stand still."""

    max_streams: Count = Field(
        default=128, description="The most streams that may be open. One more is refused."
    )
    max_connection_streams: Count = Field(
        default=64,
        description="The most streams that one connection may have open. One more is refused. A "
        "connection of a unix socket has no limit of its own.",
    )
    stream_idle_seconds: Seconds = Field(
        default=300.0,
        description="The seconds without progress, by the client's fault, after which a stream is "
        "ended. Where others wait for the memory or the place that it holds, a tenth of that.",
    )
    max_stream_sequences: Count = Field(
        default=1_024, description="The most sequences that one stream may have in flight."
    )
    max_stream_bytes: Bytes = Field(
        default=4 * 1024**3,
        description="The most bytes that one stream may have in flight, results included. Beyond "
        "that the server reads no further. A sequence must fit together with its result.",
    )
    max_streams_bytes: Bytes = Field(
        default=8 * 1024**3,
        description="The most bytes that all streams together may have in flight.",
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
