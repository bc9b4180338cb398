"""What real clients have sent, as `recording` wrote it to traffic.json: what fuzzing begins with.
The file is part of the project, so that a seed means the same everywhere. Knows no server.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from hpack import Decoder

from bilstm_server.model import ModelConfig, SequenceEncoder, save_model

from ..wire import PREFACE

FILE = Path(__file__).with_name("traffic.json")
_DATA, _HEADERS, _RESET = 0, 1, 3
_HEADER_BYTES = 9  # of a frame
_PREFIX_BYTES = 5  # of a gRPC message
SHIPPED = "japanese_vowels"
IDS, WIDTH = 20, 3
# Ids and floats of each step, forward only: what the shipped model does not have.
TAGGER: dict[str, Any] = {
    "inputs": {"tokens": {"ids": IDS, "padding_id": 0}, "features": {"width": WIDTH}},
    "layers": [
        {"name": "embedding", "type": "embedding", "inputs": ["tokens"], "width": 4},
        {"name": "joined", "type": "concat", "inputs": ["embedding", "features"]},
        {"name": "lstm", "type": "lstm", "hidden_size": 6, "bidirectional": False},
        {"name": "scores", "type": "linear", "width": 4},
        {"name": "tags", "type": "argmax"},
    ],
    "outputs": {"states": "lstm", "logits": "scores", "labels": "tags"},
}


class Frame(NamedTuple):
    """One frame of HTTP/2. Its length is that of its payload, unless it is damaged."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    def serialize(self) -> bytes:
        length = len(self.payload).to_bytes(3, "big")
        return (
            length + bytes((self.kind, self.flags)) + self.stream.to_bytes(4, "big") + self.payload
        )


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call: its path, its messages, and whether it was cancelled."""

    path: str
    messages: tuple[bytes, ...]
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls, and the connections that they came over, as the bytes that the clients sent."""

    calls: Sequence[RecordedCall]
    connections: Sequence[bytes]


def traffic_of(connections: Sequence[bytes]) -> Traffic:
    """Read the calls out of what clients have sent."""
    calls = [call for connection in connections for call in _calls(connection)]
    return Traffic(calls, connections)


def recorded() -> Traffic:
    """Read traffic.json."""
    return traffic_of([b64decode(connection) for connection in json.loads(FILE.read_text())])


def write(connections: Sequence[bytes]) -> None:
    """Write traffic.json."""
    lines = [b64encode(connection).decode() for connection in connections]
    FILE.write_text(json.dumps(lines, indent=0) + "\n")


def frames_of(connection: bytes) -> Iterator[Frame]:
    """The frames after the preface. One that was cut off is left out."""
    at = len(PREFACE)
    while at + _HEADER_BYTES <= len(connection):
        length = int.from_bytes(connection[at : at + 3], "big")
        kind, flags = connection[at + 3], connection[at + 4]
        stream = int.from_bytes(connection[at + 5 : at + 9], "big")
        at += _HEADER_BYTES
        if at + length > len(connection):
            return
        yield Frame(kind, flags, stream, connection[at : at + length])
        at += length


def _calls(connection: bytes) -> Iterator[RecordedCall]:
    decoder = Decoder()
    paths: dict[int, str] = {}
    bodies: dict[int, bytes] = {}
    cancelled = set()
    for kind, _, stream, payload in frames_of(connection):
        if kind == _HEADERS and stream not in paths:
            paths[stream] = str(dict(decoder.decode(payload))[":path"])  # type: ignore[index]
        elif kind == _DATA:
            bodies[stream] = bodies.get(stream, b"") + payload
        elif kind == _RESET:
            cancelled.add(stream)
    for stream, path in paths.items():
        yield RecordedCall(path, tuple(_messages(bodies.get(stream, b""))), stream in cancelled)


def _messages(body: bytes) -> Iterator[bytes]:
    while body:
        end = _PREFIX_BYTES + int.from_bytes(body[1:_PREFIX_BYTES], "big")
        yield body[_PREFIX_BYTES:end]
        body = body[end:]


def served_models(folder: Path) -> list[str]:
    """Write what the calls are to, beside the model that ships, into a folder. Returns the flags
    that have a server serve it all."""
    torch.manual_seed(0)
    save_model(SequenceEncoder(ModelConfig.model_validate(TAGGER)), folder / "tagger")
    return [f"--models-folder={folder}"]


def numbered(seed: int, count: int) -> Iterator[tuple[int, Random]]:
    """Each case's number, and the random numbers that make it. They depend on nothing else."""
    for number in range(count):
        yield number, Random(f"{seed} {number}")
