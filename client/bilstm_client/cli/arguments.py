"""What may be typed after `bilstm`, each refused in the user's words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._calls.options import output_names
from ..types import DEFAULT_IN_FLIGHT, OUTPUTS
from .connection import add_connection, check_connection
from .tables import check_table

_NO_TABLE = {"states", "final", "mean", "max", "state", "probabilities"}  # have no scores or labels


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was typed; `command` is the subcommand's name. `SystemExit` where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="bilstm", description="Encode sequences on a BiLSTM encoding server."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('bilstm')}")
    commands = parser.add_subparsers(dest="command", required=True)
    encode = _add_encode(commands)
    _add_models(commands)
    _add_health(commands)
    parsed = parser.parse_args(arguments)
    check_connection(parsed, commands.choices[parsed.command])
    if parsed.command == "encode":
        if parsed.out and parsed.out_dir:
            encode.error("argument --out: all results go into one table: no --out-dir")
        parsed.outputs = parsed.outputs or (["logits"] if parsed.out else ["states"])
        if parsed.out and (len(parsed.outputs) > 1 or parsed.outputs[0] in _NO_TABLE):
            encode.error("argument --out: a table is of logits or of labels: no other --outputs")
    return parsed


def _add_encode(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "encode",
        help="encode .npy and .npz files",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Encode .npy files (one sequence each) and .npz files (each array a sequence; for
a model of several inputs the file is one sequence, its arrays named as these).
For FILE.npy it writes FILE.encoded.npz with one array per output; for FILE.npz,
FILE.encoded.npz with arrays named NAME.OUTPUT. With --stream, the states of
FILE.npy are written to FILE.states.npy while they arrive, and only its other
outputs to FILE.encoded.npz. A file is written whole or not at all. What was
written is printed: on a terminal with the best class or the labels of each
sequence, where the model has some; in a pipe a path in each line.""",
        epilog="""\
examples:
  bilstm encode utterances.npz
  bilstm encode --outputs final,logits --out-dir results a.npy b.npy
  bilstm encode --out scores.csv utterances.npz
  bilstm encode --model tagger --out tags.csv --outputs labels sentences.npz
  bilstm encode --stream --skip-existing recordings""",
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="[T, D] floats or [T] token ids")
    add(
        "--outputs",
        type=_outputs,
        metavar="OUTPUTS",
        help=f"what to compute, comma-separated: {','.join(OUTPUTS)}, or outputs of the model's "
        "own; default: states, or with --out logits",
    )
    add("--model", default="", help="default: the server's default model")
    add("--model-version", default="", help="default: the newest")
    add("--out-dir", type=Path, help="where to write; default: beside each file")
    add(
        "--out",
        type=_table,
        metavar="TABLE",
        help="write the scores (logits) of all sequences, and the label of the highest, to one "
        "table: .csv, .jsonl or .parquet (with pyarrow installed); with --outputs labels, the name "
        "of each label in a row of its own",
    )
    add(
        "--skip-existing",
        action="store_true",
        help="leave out each file that has its results already: of every sequence, and every "
        "output asked for, by whichever model; with --out, leave out all if the table has a row "
        "for each sequence",
    )
    add(
        "--stream",
        action="store_true",
        help="encode any number of files, of any size, over one stream: a FILE may be a folder, "
        "for all .npy and .npz files in it and below that are no results (links to folders are "
        "not followed); .npy files are read and written a part at a time; a file or array that "
        "can't be encoded is named with the reason, and the rest goes on; a server that is lost "
        "is waited for",
    )
    add(
        "--in-flight",
        type=_count,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help="with --stream: sequences that are sent before the first is answered; "
        "default: %(default)s",
    )
    add_connection(parser, "how long a call may take, or a stream be without a server")
    return parser


def _add_models(commands: Any) -> None:
    parser = commands.add_parser(
        "models",
        help="list the server's models",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="List the server's models, with what each takes, gives and allows.",
        epilog="examples:\n  bilstm models --server encoder.example:50051",
    )
    add_connection(parser, "how long the server may take to answer")


def _add_health(commands: Any) -> None:
    parser = commands.add_parser(
        "health",
        help="ask whether the server is ready",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Ask whether the server is ready: exits 0 once its models are loaded, and 1
before that, while it drains, and where no server answers.""",
        epilog="""\
examples:
  bilstm health
  bilstm health --server encoder.example --tls --token-file token
  bilstm health --wait --timeout-seconds 60 && bilstm encode utterances.npz""",
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait until it is ready, for --timeout-seconds at most, also where no server answers "
        "yet",
    )
    add_connection(parser, "how long the server may take to answer, or --wait waits")


# -- values, as argparse converts them --------------------------------------------------------


def _outputs(text: str) -> list[str]:
    """Names of outputs, comma-separated."""
    names: list[Any] = [name.strip() for name in text.split(",")]
    try:
        output_names(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _count(text: str) -> int:
    """A number, 1 or more."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def _table(text: str) -> Path:
    """A file's name whose suffix says which kind of table it is."""
    path = Path(text)
    try:
        check_table(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path
