"""The `bilstm-server` command, and `python -m bilstm_server`: what must be so before torch and
gRPC are imported, which takes a second or two.
"""

from __future__ import annotations

import signal
import sys

from . import threads  # noqa: F401


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until the server has handlers of its own
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"bilstm-server: {error.name} is missing; pip install 'bilstm[server]'")
    return run()


def _leave(number: int, _: object) -> None:
    """Nothing has been accepted, so nothing is lost. SIGINT ends it as shells expect."""
    sys.exit(0 if number == signal.SIGTERM else 128 + number)


if __name__ == "__main__":
    sys.exit(main())
