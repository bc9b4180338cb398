"""Pipes that nobody reads."""

from __future__ import annotations

import os
import threading

from bilstm_server.process.stderr import BackgroundStream
from tests.support.waiting import HANGS_AFTER_SECONDS


class Pipe:
    """A pipe and a stream into it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.stream = BackgroundStream(self.write_end, max_bytes=128 * 1024)
        self.stream.start()

    def read(self) -> list[str]:
        """All lines, to the end of what is in it."""
        reader = os.fdopen(self.read_end, "rb", closefd=False)
        lines: list[bytes] = []
        reading = threading.Thread(target=lambda: lines.extend(reader))
        reading.start()
        self.stream.drain(HANGS_AFTER_SECONDS)
        os.close(self.write_end)
        reading.join(HANGS_AFTER_SECONDS)
        return [line.decode().rstrip("\n") for line in lines]
