"""Every setting, once: name, default, unit and meaning. Flags, environment variables, `--help` and
the tables in the docs are made of `Settings`; a room takes the group of limits that it keeps to.
"""

from .config_file import CONFIG_VARIABLE, load_settings
from .environment import check_environment
from .limits import (
    CallerLimits,
    CallLimits,
    ConnectionLimits,
    MessageLimits,
    QueueLimits,
    ReceiveLimits,
    ReplyLimits,
    RequestLimits,
    StreamLimits,
)
from .named_callers import CallerPriority, CallerShare
from .settings import Settings
from .sources import SHIPPED_MODEL, ModelSource

__all__ = [
    "CONFIG_VARIABLE",
    "SHIPPED_MODEL",
    "CallLimits",
    "CallerLimits",
    "CallerPriority",
    "CallerShare",
    "ConnectionLimits",
    "MessageLimits",
    "ModelSource",
    "QueueLimits",
    "ReceiveLimits",
    "ReplyLimits",
    "RequestLimits",
    "Settings",
    "StreamLimits",
    "check_environment",
    "load_settings",
]
