"""What may be typed after `bilstm`, each refused in the user's words."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._calls.connection import DEFAULT_TIMEOUT_SECONDS, finite_seconds
from .._calls.messages import output_numbers
from .._calls.target import Target
from ..types import DEFAULT_IN_FLIGHT, OUTPUTS


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` names the one that was typed."""
    parser = argparse.ArgumentParser(
        prog="bilstm", description="Encode sequences on a BiLSTM encoding server."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('bilstm')}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_encode(commands)
    _add_models(commands)
    _add_health(commands)
    return parser


def _add_encode(commands: Any) -> None:
    parser = commands.add_parser(
        "encode",
        help="encode .npy and .npz files",
        description="Encode .npy files (one sequence each) and .npz files (each array a "
        "sequence). For FILE.npy it writes FILE.encoded.npz with one array per output; for "
        "FILE.npz, FILE.encoded.npz with arrays named NAME.OUTPUT. With --stream, the states of "
        "FILE.npy are written to FILE.states.npy while they arrive, and only its other outputs to "
        "FILE.encoded.npz.",
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="[T, D] floats or [T] token ids")
    add(
        "--outputs",
        type=_outputs,
        default="states",
        metavar="OUTPUTS",
        help=f"what to compute, comma-separated: {','.join(OUTPUTS)}; default: %(default)s",
    )
    add("--model", default="", help="default: the server's default model")
    add("--model-version", default="", help="default: the newest")
    add("--out-dir", type=Path, help="where to write; default: beside each file")
    add(
        "--stream",
        action="store_true",
        help="encode any number of files, of any size, over one stream: a FILE may be a folder, "
        "for all .npy and .npz files in it and below that are no results (links to folders are "
        "not followed); .npy files are read and written a part at a time; a file or array that "
        "can't be encoded is told of, and the rest goes on; a server that is lost is waited for",
    )
    add(
        "--in-flight",
        type=_count,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help="with --stream: sequences that are sent before the first is answered; "
        "default: %(default)s",
    )
    _add_connection(parser)


def _add_models(commands: Any) -> None:
    parser = commands.add_parser("models", help="list the server's models")
    _add_connection(parser)


def _add_health(commands: Any) -> None:
    parser = commands.add_parser(
        "health",
        help="ask whether the server is ready",
        description="Ask whether the server is ready: exits 0 once its models are loaded, and 1 "
        "before that, while it drains, and where no server answers.",
    )
    _add_connection(parser)


def _add_connection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--server",
        type=_server,
        default="localhost:50051",
        metavar="HOST:PORT",
        help="default: %(default)s",
    )
    add(
        "--timeout-seconds",
        type=_seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="of one call; of a stream: without a server; default: %(default)s",
    )


# -- values, as argparse converts them --------------------------------------------------------


def _outputs(text: str) -> list[str]:
    """Names of outputs, comma-separated."""
    names: list[Any] = [name.strip() for name in text.split(",")]
    try:
        output_numbers(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _server(text: str) -> str:
    """HOST:PORT, or another target."""
    try:
        Target.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _count(text: str) -> int:
    """A number, 1 or more."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def _seconds(text: str) -> float:
    """A finite number of seconds."""
    try:
        return finite_seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
