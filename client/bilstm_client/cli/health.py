"""`bilstm health`: whether the server is ready, now or within a time."""

from __future__ import annotations

import argparse

from ..client import Client
from ..errors import DeadlineExceeded, NotTrusted, Unavailable


class NotReady(Exception):
    """The server answers but does not serve, or was not ready in time."""


def run(client: Client, parsed: argparse.Namespace) -> None:
    """Print `ready`: at once, or with `--wait` as soon as it is so; else raise `NotReady`."""
    if parsed.wait:
        _wait(client, parsed.server)
    elif not client.is_ready():
        raise NotReady(f"the server at {parsed.server} is not ready")
    print("ready")


def _wait(client: Client, server: str) -> None:
    """Wait for the client's own timeout."""
    try:
        client.wait_until_ready()
    except NotTrusted:
        raise  # it was not waited for
    except (DeadlineExceeded, Unavailable) as error:
        raise NotReady(f"{server}: {error.message}") from error
