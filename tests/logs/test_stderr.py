"""A standard error that can't be written, or that nobody reads, holds nobody up."""

from __future__ import annotations

import fcntl
import os
import threading

from bilstm_server.process.stderr import BackgroundStream
from tests.logs.pipes import Pipe
from tests.support.waiting import HANGS_AFTER_SECONDS

_LINE = "x" * 99 + "\n"


def test_a_pipe_that_nobody_reads(pipe: Pipe) -> None:
    """Megabytes into a full pipe hold nobody up. What was dropped is counted, and told of when
    somebody reads again."""
    written = 50_000
    for _ in range(written):
        pipe.stream.write(_LINE)
    dropped = pipe.stream.dropped_lines
    assert 0 < dropped < written
    lines = pipe.read()
    assert lines[-1] == f"{dropped} lines were dropped here"
    assert len(lines) - 1 + dropped == written


def test_a_closed_pipe(pipe: Pipe) -> None:
    """What is written into a closed pipe is dropped, and raises nowhere."""
    os.close(pipe.read_end)
    print("a", "b", file=pipe.stream, flush=True)
    pipe.stream.drain(HANGS_AFTER_SECONDS)
    assert pipe.stream.dropped_lines == 1


def test_a_full_disk() -> None:
    """What is written to a full disk is dropped, and raises nowhere."""
    full = os.open("/dev/full", os.O_WRONLY)
    stream = BackgroundStream(full)
    stream.start()
    stream.write("a\nb\n")
    stream.drain(HANGS_AFTER_SECONDS)
    assert stream.dropped_lines == 2
    os.close(full)


def test_a_pipe_that_does_not_block(pipe: Pipe) -> None:
    """A pipe that another process has made non-blocking loses nothing."""
    flags = fcntl.fcntl(pipe.write_end, fcntl.F_GETFL)
    fcntl.fcntl(pipe.write_end, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    pipe.stream.write(_LINE * 600)
    pipe.stream.write("end\n")
    assert pipe.read() == [_LINE.rstrip()] * 600 + ["end"]


def test_lines_of_threads_stay_whole(pipe: Pipe) -> None:
    """Threads that print piece by piece don't mix their lines."""

    def print_lines(name: str) -> None:
        for _ in range(50):
            print(name, name, name, file=pipe.stream)

    threads = [threading.Thread(target=print_lines, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pipe.read()) == sorted(" ".join(name * 3) for name in "abcd" * 50)


def test_a_line_is_bounded(pipe: Pipe) -> None:
    """A line without end is cut."""
    pipe.stream.write("x" * 10_000_000 + "\n")
    (line,) = pipe.read()
    assert len(line) < 70_000
