"""`bilstm encode` without a stream: files that are read whole, a request at a time."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..client import Client
from ..errors import InvalidInput
from ..types import Array
from . import encode_stream
from .files import RESULT_SUFFIX, FileError, SequenceFile, arrays_of, write_results

_BATCH_SEQUENCES = 64  # a call at a time, so that the progress bar moves


def run(client: Client, parsed: argparse.Namespace) -> None:
    if parsed.stream:
        encode_stream.run(client, parsed)
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
