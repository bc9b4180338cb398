"""How many descriptors, files and connections, the process may have open."""

from __future__ import annotations

import resource
import sys


def allow_descriptors(wanted: int) -> int:
    """Let the process have as many as `wanted` open, or as many as the system lets it allow itself.
    Returns how many it may have open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = min(wanted, _number(hard))
    if allowed > _number(soft):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(allowed, _number(soft))


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
