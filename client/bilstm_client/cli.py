"""The commands of `bilstm`: encode files of arrays, list a server's models, ask if it is ready."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import _cli_arguments, _cli_stream
from ._calls.session import DEFAULT_TIMEOUT_SECONDS
from ._cli_stream import NotAllEncoded
from ._files import RESULT_SUFFIX, FileError, SequenceFile, arrays_of, write_results
from .client import Client
from .errors import EncoderError, InvalidInput, Unavailable
from .types import DEFAULT_IN_FLIGHT, OUTPUTS, Array, Model

_BATCH_SEQUENCES = 64  # a call at a time, so that the progress bar moves
_INTERRUPTED = 130  # as shells have it: 128 and the signal's number


class NotReady(Exception):
    """The server answers, and does not serve."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    code = _run(arguments)
    try:
        if sys.stdout is not None:  # closed
            sys.stdout.flush()
    except OSError as error:
        # What is left in it would be tried again at the interpreter's end, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or _fail(f"can't write to standard output: {error.strerror}")
    return code


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="bilstm", description="Encode sequences on a BiLSTM encoding server."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('bilstm')}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_encode(commands)
    _add_models(commands)
    _add_health(commands)
    parsed = parser.parse_args(arguments)
    try:
        with Client(parsed.server, timeout_seconds=parsed.timeout_seconds) as client:
            parsed.run(client, parsed)
    except Unavailable as error:
        return _fail(f"no server answers at {parsed.server}: {error.message}")
    except (EncoderError, FileError, NotReady, NotAllEncoded, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")
        return _INTERRUPTED
    return 0


def _fail(message: str) -> int:
    print(f"bilstm: {message}", file=sys.stderr)
    return 1


# -- what may be typed ------------------------------------------------------------------------


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
        type=_cli_arguments.outputs,
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
        type=_cli_arguments.count,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help="with --stream: sequences that are sent before the first is answered; "
        "default: %(default)s",
    )
    _add_connection(parser)
    parser.set_defaults(run=_encode)


def _add_models(commands: Any) -> None:
    parser = commands.add_parser("models", help="list the server's models")
    _add_connection(parser)
    parser.set_defaults(run=_models)


def _add_health(commands: Any) -> None:
    parser = commands.add_parser(
        "health",
        help="ask whether the server is ready",
        description="Ask whether the server is ready: exits 0 once its models are loaded, and 1 "
        "before that, while it drains, and where no server answers.",
    )
    _add_connection(parser)
    parser.set_defaults(run=_health)


def _add_connection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--server",
        type=_cli_arguments.server,
        default="localhost:50051",
        metavar="HOST:PORT",
        help="default: %(default)s",
    )
    add(
        "--timeout-seconds",
        type=_cli_arguments.seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="of one call; of a stream: without a server; default: %(default)s",
    )


# -- bilstm encode ----------------------------------------------------------------------------


def _encode(client: Client, parsed: argparse.Namespace) -> None:
    if parsed.stream:
        _cli_stream.encode(client, parsed)
        return
    targets = _targets(parsed.files, parsed.out_dir)
    files = [SequenceFile.open(path) for path in parsed.files]
    total = sum(len(file.names) for file in files)
    with tqdm(total=total, unit="sequence", disable=not sys.stderr.isatty()) as progress:
        for file in files:
            arrays: dict[str, Array] = {}
            for batch in file.batches(_BATCH_SEQUENCES):
                arrays |= _encode_batch(client, parsed, file, batch)
                progress.update(len(batch))
            write_results(targets[file.path], arrays)
            print(targets[file.path])


def _targets(paths: Sequence[Path], out_dir: Path | None) -> dict[Path, Path]:
    """Where the results of each file go: no two to one."""
    sources: dict[Path, Path] = {}
    for path in paths:
        if path.name.endswith(RESULT_SUFFIX):
            raise FileError(f"{path}: holds results, not sequences")
        target = (out_dir or path.parent) / f"{path.stem}{RESULT_SUFFIX}"
        if target in sources:
            both = f"{sources[target]} and {path}"
            raise FileError(f"{both} would both be written to {target}; encode them apart")
        sources[target] = path
    return {path: target for target, path in sources.items()}


def _encode_batch(
    client: Client, parsed: argparse.Namespace, file: SequenceFile, batch: dict[str, Array]
) -> dict[str, Array]:
    """The results by the names they are written under."""
    try:
        encodings = client.encode_batch(
            batch.values(),
            outputs=parsed.outputs,
            model=parsed.model,
            version=parsed.model_version,
        )
    except InvalidInput as error:
        if place := re.match(r"sequences\[(\d+)\]", error.field):
            name = list(batch)[int(place[1])]
            raise FileError(f"{file.place(name)}: {error.expected}") from error
        raise
    arrays: dict[str, Array] = {}
    for name, encoding in zip(batch, encodings, strict=True):
        prefix = f"{name}." if name else ""
        arrays |= {prefix + output: array for output, array in arrays_of(encoding)}
    return arrays


# -- bilstm health ----------------------------------------------------------------------------


def _health(client: Client, parsed: argparse.Namespace) -> None:
    if not client.is_ready():
        raise NotReady(f"the server at {parsed.server} is not ready")
    print("ready")


# -- bilstm models ----------------------------------------------------------------------------


def _models(client: Client, parsed: argparse.Namespace) -> None:
    for index, model in enumerate(client.list_models()):
        print(f"{model.name} version {model.version}{'' if index else ' (default)'}")
        for name, value in _facts(model):
            print(f"  {name:8} {value}")


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    takes = f"[T] token ids below {model.num_embeddings}"
    yield "takes", takes if model.num_embeddings else f"[T, {model.input_size}] floats"
    sizes = f"hidden {model.hidden_size}, layers {model.num_layers}"
    sizes += ", bidirectional" if model.bidirectional else ", unidirectional"
    yield "sizes", sizes + (f", projection {model.proj_size}" if model.proj_size else "")
    yield "outputs", ", ".join(model.outputs)
    if model.num_classes:
        yield "classes", f"{model.num_classes}, with {len(model.labels)} labels"
    limits = model.limits
    yield (
        "limits",
        f"{limits.max_sequence_tokens:,} steps in a sequence; {limits.max_request_sequences:,} "
        f"sequences, {limits.max_request_tokens:,} steps and {limits.max_message_bytes:,} bytes "
        f"in a request; {limits.max_stream_sequences:,} sequences and {limits.max_stream_bytes:,} "
        "bytes in flight in a stream",
    )
