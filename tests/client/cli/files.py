"""What `bilstm` is given and what it leaves: a terminal, files of arrays, and broken ones."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import termios
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bilstm_client.types import Array, OutputName
from tests.support.commands import COMMANDS

ALL_OUTPUTS: tuple[OutputName, ...] = ("states", "final", "mean", "max", "logits", "state")


def floats(steps: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, steps)).standard_normal((steps, 5), dtype=np.float32)


def names(folder: Path) -> list[str]:
    """Of all files below the folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def assert_file(path: Path, expected: Mapping[str, Array]) -> None:
    """The .npz has these arrays and no others; a batch may move their last bits."""
    with np.load(path) as written:
        assert set(written) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(written[name], array, rtol=0, atol=1e-6, err_msg=name)


def on_terminal(*arguments: Any, prints: bool = False) -> str:
    """What the installed command shows on a terminal: its standard error, or all that it
    `prints`."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    shown: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.append(chunk)
        except OSError:  # how Linux ends a terminal whose other side is closed
            return

    reader = threading.Thread(target=read)
    with subprocess.Popen(
        [COMMANDS / "bilstm", *map(str, arguments)],
        stdout=theirs if prints else subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        reader.start()
        assert process.wait(60) == 0
    reader.join(60)
    os.close(ours)
    return b"".join(shown).decode()


def one_line(stderr: str) -> str:
    """The one line on standard error, less the command's name."""
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("bilstm: ")
    return stderr.removeprefix("bilstm: ").rstrip("\n")


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


GOOD, OBJECTS = npy(np.ones((2, 5))), npy(np.array([{"a": 1}], dtype=object))
NEITHER, UNREADABLE = r"not an \.npy or \.npz file", "can't be read: .+"
BROKEN: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("x.npy", None, "No such file or directory"),
    "empty": ("x.npy", b"", NEITHER),
    "empty .npz": ("x.npz", b"", NEITHER),
    "text": ("x.csv", b"1,2,3\n", NEITHER),
    "half a header": ("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr", UNREADABLE),
    "unknown version": ("x.npy", b"\x93NUMPY\x09\x00v\x00{'descr", UNREADABLE),
    "half the numbers": ("x.npy", GOOD[:-8], UNREADABLE),
    "torn .npz": ("x.npz", b"PK\x03\x04" + b"\0" * 60, UNREADABLE),
    "damaged .npz": ("x.npz", npz(s=GOOD).replace(b"\xf0\x3f", b"\xf0\x40"), f"s: {UNREADABLE}"),
    "no array in .npz": ("x.npz", npz(ok=GOOD, s=b"text"), f"s: {UNREADABLE}"),
    "no arrays": ("x.npz", npz(), "holds no arrays"),
    "objects": ("x.npy", OBJECTS, "holds Python objects, not numbers"),
    "objects in .npz": ("x.npz", npz(ok=GOOD, s=OBJECTS), "s: holds Python objects, not numbers"),
    "text in .npy": ("x.npy", npy(np.array(["a", "b"])), "must be an array of numbers, got <U1"),
    "complex in .npz": (
        "x.npz",
        npz(ok=GOOD, s=npy(np.ones((2, 5)) * 1j)),
        "s: must be an array of numbers, got complex128",
    ),
    "too wide": ("x.npy", npy(np.ones((2, 4))), r"must be \[T, 5\] \(input_size\), got \[2, 4\]"),
    "too wide in .npz": (
        "x.npz",
        npz(ok=GOOD, s100=npy(np.ones((2, 4)))),
        r"s100: must be \[T, 5\] \(input_size\), got \[2, 4\]",
    ),
}
