"""How the process ends: the code that it has then, and that nothing holds it up."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from .stderr import BackgroundStream

FAILED_CODE = 3  # the engine hangs, the device is lost, or the event loop stalls
_LAST_LINES_SECONDS = 2.0  # for what has been logged when the process ends


def end_process(code: int) -> NoReturn:
    """End at once, whatever the threads do, but for what is logged and can soon be written."""
    if isinstance(sys.stderr, BackgroundStream):
        sys.stderr.drain(_LAST_LINES_SECONDS)
    os._exit(code)
