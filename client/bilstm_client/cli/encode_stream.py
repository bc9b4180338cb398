"""`bilstm encode --stream`: files and folders of any size through one stream."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..client import Client
from ..errors import InvalidInput, NotAnArray, NotSaved, SequenceFailure
from ..types import Array, Encoding
from .files import FileError, arrays_of, unwritable
from .folders import Place, ResultArchive, Target, find_targets, is_result, read_sequences


class NotAllEncoded(Exception):
    """The others are; each of these was told of."""


def run(client: Client, parsed: argparse.Namespace) -> None:
    """Encodes all that `parsed` names; raises `NotAllEncoded` in the end."""
    for path in parsed.files:
        if is_result(path):
            raise FileError(f"{path}: holds results, not sequences")
    targets = find_targets(parsed.files, parsed.out_dir, parsed.outputs)
    with tqdm(total=len(targets), unit="sequence", disable=not sys.stderr.isatty()) as bar:
        job = _Job(bar)
        results = _results(client, parsed, job, targets)
        with _telling_of_waits(bar), closing(job), closing(results):
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
        self._target: Target | None = None  # of the file whose turn it is
        self._archive: ResultArchive | None = None  # that it has
        self._is_lost = False  # the archive can't be written

    def source(self, targets: list[Target]) -> Iterator[tuple[Place, Array | None]]:
        """What can't be read is refused as no array: so it has its turn, too."""
        for target in targets:
            for count, sequence in enumerate(read_sequences(target)):
                self._bar.total += 1 if count else 0
                yield sequence

    def take(self, place: Place, result: Encoding | SequenceFailure) -> None:
        """A result, in the order of the source."""
        if self._target is not place.target:
            self.finish()
            self._target = place.target
        if isinstance(result, SequenceFailure):
            self._fail(place.error or _file_error(place, result))
        else:
            arrays = dict(arrays_of(result))
            if place.name is None and arrays.pop("states", None) is not None:
                self._tell(place.target.states)
            with self._writing():
                self._add(place, arrays)
            self._steps += place.steps
            self._bytes += place.size
        steps = tqdm.format_sizeof(self._steps)
        size = tqdm.format_sizeof(self._bytes, "B", 1024)
        self._bar.set_postfix_str(f"{steps} steps, {size}", refresh=False)
        self._bar.update()

    def finish(self) -> None:
        """No more results of the same file."""
        with self._writing():
            if self._archive is not None:
                self._archive.close()
                self._tell(self._archive.path)
        self._archive, self._is_lost = None, False

    def close(self) -> None:
        """Whatever is half written goes."""
        if self._archive is not None:
            self._archive.discard()

    def _add(self, place: Place, arrays: dict[str, Array]) -> None:
        if arrays and not self._is_lost:
            self._archive = self._archive or ResultArchive(place.target.encoded)
            for output, array in arrays.items():
                self._archive.add(f"{place.name}.{output}" if place.name else output, array)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What can't be written is its file's failure, told of once."""
        try:
            yield
        except OSError as error:
            assert self._target is not None
            self.close()
            self._archive, self._is_lost = None, True
            self._fail(unwritable(self._target.encoded, error))

    def _fail(self, error: FileError) -> None:
        self.failed += 1
        self._bar.write(f"bilstm: {error}", file=sys.stderr)

    def _tell(self, written: Path) -> None:
        self._bar.write(str(written), file=sys.stdout)


@contextmanager
def _telling_of_waits(bar: Any) -> Iterator[None]:
    """What the client logs: that a server is waited for."""
    handler = logging.Handler()
    handler.emit = lambda record: bar.write(  # type: ignore[method-assign]
        f"bilstm: {record.getMessage()}", file=sys.stderr
    )
    logger = logging.getLogger("bilstm_client")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _file_error(place: Place, error: SequenceFailure) -> FileError:
    if isinstance(error, NotSaved):
        return unwritable(place.target.states, error)
    return FileError(f"{place}: {_reason(error)}")


def _reason(error: SequenceFailure) -> str:
    """Without the place in the stream, which is not the caller's."""
    if isinstance(error, NotAnArray):
        return str(error).partition(": ")[2]
    if isinstance(error, InvalidInput) and error.field.startswith("sequences["):
        return error.expected
    return str(error)
