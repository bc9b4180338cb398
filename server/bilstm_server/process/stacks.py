"""Where each thread of the process stands, in words."""

from __future__ import annotations

import faulthandler
import os
import re
import threading
from typing import TypedDict

_THREAD = re.compile(r"hread 0x([0-9a-f]+)")  # "Current thread", or "Thread"


class Stack(TypedDict):
    """One thread, and its calls, the innermost first."""

    thread: str
    calls: list[str]


def stacks() -> list[Stack]:
    """All threads, as faulthandler finds them: it asks no thread, takes no lock, and reads no
    source, so that it can't come to hang with them. None where the process has no descriptor left
    to write them to, or its system no files in memory."""
    try:
        with os.fdopen(os.memfd_create("stacks"), "w+b") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            text = file.read().decode("utf-8", "backslashreplace")
    except (OSError, AttributeError):
        return []
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found: list[Stack] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := _THREAD.search(line):
            number = int(match[1], 16)
            found.append(Stack(thread=names.get(number, f"{number:#x}"), calls=[]))
        elif found:
            found[-1]["calls"].append(line)
    return found
