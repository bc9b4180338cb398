"""Where each thread stands, by its name."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from bilstm_server.process.stacks import stacks


def test_every_thread_is_there_with_its_calls() -> None:
    """The innermost call comes first, and a thread that waits is found where it waits."""
    go_on, stands = threading.Event(), threading.Event()

    def wait_here() -> None:
        stands.set()
        go_on.wait()

    thread = threading.Thread(target=wait_here, name="a thread that waits")
    thread.start()
    try:
        assert stands.wait(60)
        found = {stack["thread"]: stack["calls"] for stack in stacks()}
    finally:
        go_on.set()
        thread.join()
    assert set(found) >= {thread.name, threading.current_thread().name}
    assert any("in wait_here" in call for call in found[thread.name])
    assert "in stacks" in found[threading.current_thread().name][0]


def test_without_a_file_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks, the watchdog above all, goes on where no descriptor is left, and on a system
    that has no files in memory."""

    def none_left(_: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none_left)
    assert stacks() == []
    monkeypatch.delattr(os, "memfd_create")
    assert stacks() == []
