"""`bilstm-server compile`: the CPU kernel, compiled for this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import StartError
from ..model.kernels.cpu.build import VARIANTS, BuildError, build
from ..model.kernels.cpu.kernel import compile_fastest
from .commands import Commands
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "compile",
        help="compile the CPU kernel",
        description="Compile the CPU kernel for this machine, with $CXX, c++, g++ or clang++. The "
        "server itself never compiles.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--all",
        action="store_true",
        help="compile it for every instruction set, so that an image with it is fast on any host",
    )


def _run(parsed: argparse.Namespace) -> int:
    try:
        libraries, problems = _compile_all() if parsed.all else _compile_one()
    except BuildError as error:
        raise StartError(f"the CPU kernel: {error}") from error
    for name, problem in problems.items():
        print(f"bilstm-server: the CPU kernel for {name}: {problem}", file=sys.stderr)
    for library in libraries:
        say(str(library))
    return 0


def _compile_one() -> tuple[list[Path], dict[str, Exception]]:
    library, problems = compile_fastest()
    return [library], problems


def _compile_all() -> tuple[list[Path], dict[str, Exception]]:
    """Those that the compiler knows. Raises `BuildError` if it is none."""
    libraries: list[Path] = []
    problems: dict[str, Exception] = {}
    for variant in VARIANTS:
        try:
            libraries.append(build(variant))
        except BuildError as error:
            problems[variant.name] = error
    if not libraries:
        raise next(iter(problems.values()))
    return libraries, problems
