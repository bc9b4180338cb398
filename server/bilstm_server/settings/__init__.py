"""Every setting, once: name, default, unit and meaning. Flags, environment variables, `--help` and
the tables in the docs are made of `Settings`; a room takes the group of limits that it keeps to.
"""

from .environment import check_environment
from .limits import (
    CallLimits,
    ConnectionLimits,
    MessageLimits,
    QueueLimits,
    ReceiveLimits,
    ReplyLimits,
    RequestLimits,
    StreamLimits,
)
from .settings import Settings

__all__ = [
    "CallLimits",
    "ConnectionLimits",
    "MessageLimits",
    "QueueLimits",
    "ReceiveLimits",
    "ReplyLimits",
    "RequestLimits",
    "Settings",
    "StreamLimits",
    "check_environment",
]
