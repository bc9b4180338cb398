"""The `bilstm-server` command, and `python -m bilstm_server`: the process, from before torch and
gRPC are imported, which takes a second or two, to its end.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn

from .process import grpc_lines, threads  # noqa: F401
from .process.ending import end_process
from .process.stderr import BackgroundStream


def main() -> NoReturn:
    _open_descriptors()
    sys.stderr = stderr = BackgroundStream(2)
    stderr.start()
    code = _code()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = code or _fail(f"can't write to standard output: {error.strerror}")
    end_process(code)  # the interpreter would wait for a thread that still computes for nobody


def _code() -> int:
    """Run the command; returns its exit code, however it ends."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _leave)  # until the server has handlers of its own
        if sys.argv[1:2] == ["serve"]:  # it asks for files to be read, and they will be
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            from .cli.main import main as run
        except ModuleNotFoundError as error:
            return _fail(
                f"{error.name} is missing; pip install '.[server]' (without a GPU: "
                "--extra-index-url https://download.pytorch.org/whl/cpu)"
            )
        return run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception:
        traceback.print_exc()
        return 1


def _open_descriptors() -> None:
    """Where standard input, output or error is closed, the next file opened would take its number,
    and be written into."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _fail(reason: str) -> int:
    print(f"bilstm-server: {reason}", file=sys.stderr)
    return 1


def _leave(number: int, _: object) -> None:
    """Nothing has been accepted, so nothing is lost. SIGINT and SIGHUP end it as shells expect."""
    sys.exit(0 if number == signal.SIGTERM else 128 + number)


if __name__ == "__main__":
    main()
