"""`bilstm encode --stream`: files and folders of any size through one stream."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ._files import FileError, arrays_of
from ._stream_files import Place, ResultArchive, Target, find_targets, is_result, read_sequences
from .client import Client
from .errors import InvalidInput, SequenceFailure
from .types import Array, Encoding


class NotAllEncoded(Exception):
    """The others are; each of these was told of."""


def encode(client: Client, parsed: argparse.Namespace) -> None:
    for path in parsed.files:
        if is_result(path):
            raise FileError(f"{path}: holds results, not sequences")
    targets = find_targets(parsed.files, parsed.out_dir)
    with tqdm(total=len(targets), unit="sequence", disable=not sys.stderr.isatty()) as bar:
        job = _Job(bar)
        with closing(job), closing(_results(client, parsed, job, targets)) as results:
            for place, result in results:
                job.take(place, result)
            job.finish()
    if job.failed:
        s = "" if job.failed == 1 else "s"
        raise NotAllEncoded(f"{job.failed} file{s} or array{s} could not be encoded")


def _results(client: Client, parsed: argparse.Namespace, job: _Job, targets: list[Target]) -> Any:
    return client.encode_stream(
        job.source(targets),
        in_flight=parsed.in_flight,
        on_error="return",
        outputs=parsed.outputs,
        model=parsed.model,
        version=parsed.model_version,
        save_states=_states_path if "states" in parsed.outputs else None,
    )


def _states_path(place: Place) -> Path | None:
    """None: an array's of an .npz file, which go into the archive of its results."""
    if place.name is not None:
        return None
    place.target.states.parent.mkdir(parents=True, exist_ok=True)
    return place.target.states


class _Job:
    """What was read, written and could not be, of all files."""

    def __init__(self, bar: Any):
        self.failed = 0
        self._bar = bar
        self._steps = self._bytes = 0
        self._archive: ResultArchive | None = None  # of the .npz file whose turn it is

    def source(self, targets: list[Target]) -> Iterator[tuple[Place, Array | None]]:
        """What can't be read is refused as no array: so it has its turn, too."""
        for target in targets:
            for count, sequence in enumerate(read_sequences(target)):
                self._bar.total += 1 if count else 0
                yield sequence

    def take(self, place: Place, result: Encoding | SequenceFailure) -> None:
        """A result, in the order of the source."""
        if self._archive is not None and self._archive.path != place.target.encoded:
            self.finish()
        if isinstance(result, Exception):
            self.failed += 1
            line = str(place.error) if place.error else f"{place}: {_reason(result)}"
            self._bar.write(f"bilstm: {line}", file=sys.stderr)
            self._bar.update()
            return
        arrays = dict(arrays_of(result))
        if place.name is None and arrays.pop("states", None) is not None:
            self._tell(place.target.states)
        if arrays:
            self._archive = self._archive or ResultArchive(place.target.encoded)
            for output, array in arrays.items():
                self._archive.add(f"{place.name}.{output}" if place.name else output, array)
        self._count(place)

    def _count(self, place: Place) -> None:
        self._steps += place.steps
        self._bytes += place.size
        steps = tqdm.format_sizeof(self._steps)
        size = tqdm.format_sizeof(self._bytes, "B", 1024)
        self._bar.set_postfix_str(f"{steps} steps, {size}", refresh=False)
        self._bar.update()

    def finish(self) -> None:
        """No more results of the same file."""
        if self._archive is not None:
            self._archive.close()
            self._tell(self._archive.path)
            self._archive = None

    def close(self) -> None:
        if self._archive is not None:
            self._archive.discard()

    def _tell(self, written: Path) -> None:
        self._bar.write(str(written), file=sys.stdout)


def _reason(error: SequenceFailure) -> str:
    """Without the place in the stream, which is not the caller's."""
    if isinstance(error, TypeError):
        return str(error).partition(": ")[2]
    if isinstance(error, InvalidInput) and error.field.startswith("sequences["):
        return error.expected
    return str(error)
