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
from .probes import ProbeSettings
from .security import AuthSettings, TlsSettings
from .settings import Settings
from .sources import SHIPPED_MODEL, ModelSource

__all__ = [
    "CONFIG_VARIABLE",
    "SHIPPED_MODEL",
    "AuthSettings",
    "CallLimits",
    "CallerLimits",
    "CallerPriority",
    "CallerShare",
    "ConnectionLimits",
    "MessageLimits",
    "ModelSource",
    "ProbeSettings",
    "QueueLimits",
    "ReceiveLimits",
    "ReplyLimits",
    "RequestLimits",
    "Settings",
    "StreamLimits",
    "TlsSettings",
    "check_environment",
    "load_settings",
]
