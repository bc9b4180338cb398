"""The `bilstm-server` command, and `python -m bilstm_server`: the process, from before torch and
gRPC are imported, which takes a second or two, to its end.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn

from . import threads  # noqa: F401


def main() -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until the server has handlers of its own
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"bilstm-server: {error.name} is missing; pip install '.[server]'")
    try:
        code = run()
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter would wait for a thread that still computes for nobody


def _leave(number: int, _: object) -> None:
    """Nothing has been accepted, so nothing is lost. SIGINT ends it as shells expect."""
    sys.exit(0 if number == signal.SIGTERM else 128 + number)


if __name__ == "__main__":
    main()
