"""The commands of `bilstm-server`: parses arguments, calls, and says in one line what failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ..errors import StartError
from . import (
    bench_model,
    compile_kernel,
    export,
    import_checkpoint,
    measure_lookahead,
    serve,
    verify,
)

_COMMANDS = (
    serve,
    export,
    import_checkpoint,
    verify,
    bench_model,
    measure_lookahead,
    compile_kernel,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; `None`: those of the process. Returns its exit
    code."""
    parser = argparse.ArgumentParser(
        prog="bilstm-server", description="Serve bidirectional LSTM encoders over gRPC."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('bilstm')}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in _COMMANDS:
        command.add(commands)
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except StartError as error:
        print(f"bilstm-server: {error}", file=sys.stderr)
        return 1
    return code
