"""`bilstm health`: whether the server is ready."""

from __future__ import annotations

import argparse

from ..client import Client


class NotReady(Exception):
    """The server answers, and does not serve."""


def run(client: Client, parsed: argparse.Namespace) -> None:
    if not client.is_ready():
        raise NotReady(f"the server at {parsed.server} is not ready")
    print("ready")
