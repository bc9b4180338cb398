"""The commands of `bilstm`: encode files of arrays, and list a server's models."""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from .client import Client
from .errors import EncoderError
from .types import Array, Encoding

_OUTPUTS = ("states", "final", "mean", "max", "logits", "state")
_BATCH_SEQUENCES = 64  # a call at a time, so that the progress bar moves


class InputError(Exception):
    """A file can't be read as sequences: one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bilstm", description="Encode sequences on a BiLSTM encoding server."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('bilstm')}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_encode(commands)
    _add_models(commands)
    parsed = parser.parse_args(arguments)
    try:
        with Client(parsed.server, timeout_seconds=parsed.timeout_seconds) as client:
            parsed.run(client, parsed)
    except (EncoderError, InputError, OSError) as error:
        print(f"bilstm: {error}", file=sys.stderr)
        return 1
    return 0


def _add_encode(commands: Any) -> None:
    parser = commands.add_parser(
        "encode",
        help="encode .npy and .npz files",
        description="Encode .npy files (one sequence each) and .npz files (each array a "
        "sequence). For FILE.npy it writes FILE.encoded.npz with one array per output; for "
        "FILE.npz, FILE.encoded.npz with arrays named NAME.OUTPUT.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="[T, D] floats or [T] token ids")
    add("--outputs", nargs="+", choices=_OUTPUTS, default=["states"], help="what to compute")
    add("--model", default="", help="empty: the server's default model")
    add("--model-version", default="", help="empty: the newest")
    add("--out-dir", type=Path, help="where to write; default: beside each file")
    _add_connection(parser)
    parser.set_defaults(run=_encode)


def _add_models(commands: Any) -> None:
    parser = commands.add_parser(
        "models",
        help="list the server's models",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_connection(parser)
    parser.set_defaults(run=_models)


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default="localhost:50051", metavar="HOST:PORT", help="address")
    parser.add_argument("--timeout-seconds", type=float, default=30.0, help="of one call")


def _encode(client: Client, parsed: argparse.Namespace) -> None:
    targets = {path: (parsed.out_dir or path.parent) / _result_name(path) for path in parsed.files}
    if len(set(targets.values())) < len(parsed.files):
        raise InputError("two of the files would have their results in one; encode them apart")
    loaded = {path: _sequences(path) for path in targets}
    total = sum(len(sequences) for sequences in loaded.values())
    with tqdm(total=total, unit="sequence", disable=not sys.stderr.isatty()) as progress:
        for path, target in targets.items():
            arrays = _encode_file(client, parsed, path, loaded.pop(path), progress)
            target.parent.mkdir(parents=True, exist_ok=True)
            np.savez(target, **arrays)  # type: ignore[arg-type]
            print(target)


def _result_name(path: Path) -> str:
    return f"{path.stem}.encoded.npz"


def _encode_file(
    client: Client,
    parsed: argparse.Namespace,
    path: Path,
    sequences: dict[str, Array],
    progress: tqdm[NoReturn],
) -> dict[str, Array]:
    """The results of one file, by the names they are written under."""
    arrays: dict[str, Array] = {}
    names = list(sequences)
    for start in range(0, len(names), _BATCH_SEQUENCES):
        batch = names[start : start + _BATCH_SEQUENCES]
        try:
            encodings = client.encode_batch(
                [sequences[name] for name in batch],
                outputs=parsed.outputs,
                model=parsed.model,
                version=parsed.model_version,
            )
        except TypeError as error:
            raise InputError(f"{path}: {error}") from error
        for name, encoding in zip(batch, encodings, strict=True):
            arrays |= _named(name, encoding)
        progress.update(len(batch))
    return arrays


def _sequences(path: Path) -> dict[str, Array]:
    """The file's arrays by name; the one of an .npy file has none."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"": content}
            with content:
                return {name: content[name] for name in content.files}
    except (OSError, ValueError, BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: no readable .npy or .npz file ({error})") from error


def _named(name: str, encoding: Encoding) -> dict[str, Array]:
    prefix = f"{name}." if name else ""
    return {prefix + output: array for output, array in _arrays(encoding)}


def _arrays(encoding: Encoding) -> Iterator[tuple[str, Array]]:
    for output in _OUTPUTS[:-1]:
        array = getattr(encoding, output)
        if array is not None:
            yield output, array
    if encoding.state is not None:
        yield "state.hidden", encoding.state.hidden
        yield "state.cell", encoding.state.cell


def _models(client: Client, parsed: argparse.Namespace) -> None:
    for model in client.list_models():
        takes = f"[T] token ids below {model.num_embeddings}"
        if not model.num_embeddings:
            takes = f"[T, {model.input_size}] floats"
        sizes = f"hidden {model.hidden_size}, layers {model.num_layers}"
        if model.num_classes:
            sizes += f", classes {model.num_classes}"
        print(f"{model.name} version {model.version}: {takes}; {sizes}")
