"""The environment's variables that look like settings and are none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from ..errors import StartError
from ..quoting import quoted
from .config_file import CONFIG_VARIABLE
from .settings import PREFIX, Settings

# Kubernetes sets these in a pod for each Service whose name begins so; the value is behind an =.
_SERVICE_LINK = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=)"
)

# The client's own: a container whose health check is `bilstm health` has them too.
_OF_CLIENTS = (f"{PREFIX}CA", f"{PREFIX}TOKEN")


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise `StartError` for a variable that looks like a setting's and is none."""
    known = [CONFIG_VARIABLE, *(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)]
    for name, value in environment.items():
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known or upper in _OF_CLIENTS:
            continue
        if _SERVICE_LINK.match(f"{upper}={value}"):
            continue
        nearest = get_close_matches(upper, known, n=1, cutoff=0)
        raise StartError(f"{quoted(name)} in the environment is no setting; nearest: {nearest[0]}")
