"""`bilstm health`: whether the server is ready, now or within a time."""

from __future__ import annotations

import argparse
import time

from ..client import Client
from ..errors import DeadlineExceeded, Unavailable

_PAUSE_SECONDS = 0.2  # between two questions


class NotReady(Exception):
    """The server answers but does not serve, or was not ready in time."""


def run(client: Client, parsed: argparse.Namespace) -> None:
    """Print `ready`, at once or with `--wait` as soon as it is so; `NotReady` where it is not."""
    if parsed.wait:
        _wait_until_ready(client, parsed)
    elif not client.is_ready():
        raise NotReady(f"the server at {parsed.server} is not ready")
    print("ready")


def _wait_until_ready(client: Client, parsed: argparse.Namespace) -> None:
    give_up_at = time.monotonic() + parsed.timeout_seconds
    while (seconds := give_up_at - time.monotonic()) > 0:
        try:
            if client.is_ready(timeout_seconds=seconds):
                return
            reason = "it loads or drains"
        except (Unavailable, DeadlineExceeded) as error:
            reason = error.message
        time.sleep(min(_PAUSE_SECONDS, max(0.0, give_up_at - time.monotonic())))
    raise NotReady(
        f"the server at {parsed.server} was not ready in {parsed.timeout_seconds:g} s: {reason}"
    )
