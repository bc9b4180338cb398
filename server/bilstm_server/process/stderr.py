"""Standard error, written by a thread: a log that can't be written, or that nobody reads, never
raises into serving and never holds it up.

It takes the place of `sys.stderr`, and so of all that Python writes there: events, gRPC's and
asyncio's own words, warnings, tracebacks.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

_MAX_WAITING_BYTES = 1024 * 1024  # that wait to be written
_MAX_WRITE_BYTES = 64 * 1024  # of one line, or of lines written at once


class BackgroundStream(io.TextIOBase):
    """A text stream whose lines a thread writes to a file descriptor.

    Lines that find no room, or can't be written, are dropped and counted. Once all is written
    again, `report_dropped` is called with the number of those lines.
    """

    def __init__(self, descriptor: int, max_bytes: int = _MAX_WAITING_BYTES):
        """`max_bytes` may wait to be written."""
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of those that wait
        # Reentrant: a finalizer that runs in here may write too.
        self._changed = threading.Condition(threading.RLock())
        self._begun = threading.local()  # each thread's line without an end
        self._unreported = 0  # lines that were dropped
        self.dropped_lines = 0
        self.report_dropped: Callable[[int], object] = self._report_dropped

    def start(self) -> None:
        """Start the thread that writes."""
        threading.Thread(target=self._run, name="standard error", daemon=True).start()

    def write(self, text: str) -> int:
        lines, newline, begun = (getattr(self._begun, "text", "") + text).rpartition("\n")
        self._begun.text = begun
        if newline:
            self._put(lines + newline)
        return len(text)

    def flush(self) -> None:
        """Let this thread's last line be written, ended or not. Does not wait until it is."""
        if begun := getattr(self._begun, "text", ""):
            self._begun.text = ""
            self._put(begun)

    def drain(self, seconds: float) -> None:
        """Wait until all is written, but no longer than so long."""
        self.flush()
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def _put(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        if len(data) > _MAX_WRITE_BYTES:
            data = data[:_MAX_WRITE_BYTES] + " …\n".encode()
        with self._changed:
            if self._bytes + len(data) > self._max_bytes:
                self._drop(data)
                return
            self._waiting.append(data)
            self._bytes += len(data)
            self._changed.notify_all()

    def _drop(self, data: bytes) -> None:
        lines = max(data.count(b"\n"), 1)
        self.dropped_lines += lines
        self._unreported += lines

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]
            written = self._write(data)
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(data)
                if not written:
                    self._drop(data)
                unreported = self._unreported if written and not self._waiting else 0
                self._unreported -= unreported
                self._changed.notify_all()
            if unreported:
                self.report_dropped(unreported)

    def _write(self, data: bytes) -> bool:
        left = memoryview(data)
        try:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:  # another process has made it so
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
        except OSError:
            return False
        return True

    def _report_dropped(self, lines: int) -> None:
        self.write(f"{lines} lines were dropped here\n")
