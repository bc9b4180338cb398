"""Calls of each kind, and how the file of a token is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.client.clients import AnyClient
from tests.client.streams.sources import X

CALLS: dict[str, Callable[[AnyClient], Any]] = {
    "encode": lambda client: client.encode(X),
    "encode_stream": lambda client: list(client.encode_stream([X])),
    "is_ready": lambda client: client.is_ready(),
    "wait_until_ready": lambda client: client.wait_until_ready(5),
}


def swap(path: Path, text: str) -> None:
    """Replace what the file is, as is done to one that is read meanwhile."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
