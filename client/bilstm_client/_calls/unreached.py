"""gRPC's words of a server that it did not reach, as the user's: where, as that was given and with
its port, why, and what may help. Words that are not known here stay as they are.
"""

from __future__ import annotations

import re

_FAILED = re.compile(
    r"(?:failed to connect to all addresses|connections to all backends failing); last error: "
    r"(?:[A-Z_]+: (?:(?:ipv4|ipv6|unix|unix-abstract|vsock):\S+: )?)?"  # a status and an address
)
_UNRESOLVED = "errors resolving "
_NOT_THERE = ("Connection refused", "No such file or directory")
_NO_GRPC = re.compile(r"parsing HTTP/2|http1", re.IGNORECASE)


def in_words(details: str, target: str) -> str:
    """What an error says of the server at `target`, whose details gRPC gives as UNAVAILABLE."""
    if details.startswith(_UNRESOLVED):
        reason = details.rstrip("]").rpartition(": ")[2]
    elif failed := _FAILED.match(details):
        reason = _explained(details[failed.end() :])
    else:
        return details
    return f"no server answers at {target}: {reason}"


def _explained(said: str) -> str:
    """What the operating system says of a connection, and a hint where one is known."""
    if _NO_GRPC.search(said):
        return (
            "this looks like no gRPC port (bilstm-server has gRPC on 50051, unless set otherwise)"
        )
    reason = said.removeprefix("Failed to connect to remote host: ")
    if reason.startswith("connect failed: addr: "):  # of a unix socket
        reason = reason.rpartition(" error: ")[2]
    return f"{reason} (is bilstm-server running there?)" if reason in _NOT_THERE else reason
