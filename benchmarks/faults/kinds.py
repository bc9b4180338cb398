"""Messages that no honest client sends, by what they are made of. Each is made when it is asked
for: together they would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.settings import Settings

Make = Callable[[], bytes]

MB = 1_000_000
LARGE = Settings.model_fields["max_message_bytes"].default * 9 // (10 * MB) * MB
_MOST = f"{LARGE // MB} MB"  # of what a client may send
DEEP = 100_000
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_UNKNOWN = 15  # the highest field number whose tag takes one byte; no message here has it


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*data, value))


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _field(number: int, data: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(data)) + data


def _many(unit: bytes, size: int = LARGE) -> bytes:
    return unit * (size // len(unit))


def _nested(number: int, depth: int) -> bytes:
    """A message in a message in a message."""
    heads, size = [], 0
    for _ in range(depth):
        head = _tag(number, _BYTES) + _varint(size)
        heads.append(head)
        size += len(head)
    return b"".join(reversed(heads))


def _random() -> bytes:
    return np.random.default_rng(0).bytes(LARGE)


_LONG = _tag(_UNKNOWN, _VARINT) + b"\xff" * 9 + b"\1"
_OPEN, _CLOSE = _tag(_UNKNOWN, _GROUP), _tag(_UNKNOWN, _GROUP_END)

# Whatever the method: field 1 is a string, or a message, in all of them.
ANY: Mapping[str, Make] = {
    "8 MB of an empty field 1": lambda: _many(_field(1, b""), 8 * MB),
    f"{_MOST} of an empty field 1": lambda: _many(_field(1, b"")),
    f"{_MOST} of a field 1 of one byte": lambda: _many(_field(1, b"a")),
    f"{_MOST} of unknown varints": lambda: _many(_tag(_UNKNOWN, _VARINT) + b"\1"),
    f"{_MOST} of unknown 32-bit numbers": lambda: _many(_tag(_UNKNOWN, _FIXED32) + bytes(4)),
    f"{_MOST} of unknown 64-bit numbers": lambda: _many(_tag(_UNKNOWN, _FIXED64) + bytes(8)),
    f"{_MOST} of unknown empty fields": lambda: _many(_field(_UNKNOWN, b"")),
    f"one unknown field of {_MOST}": lambda: _field(_UNKNOWN, bytes(LARGE)),
    f"{_MOST} of groups, side by side": lambda: _many(_OPEN + _CLOSE),
    "groups, 100,000 deep": lambda: _OPEN * DEEP + _CLOSE * DEEP,
    f"{_MOST} of groups that do not end": lambda: _many(_OPEN),
    f"{_MOST} of ends without a group": lambda: _many(_CLOSE),
    f"{_MOST} of groups, 30 deep": lambda: _many(_OPEN * 30 + _CLOSE * 30),
    "field 1 in itself, 100,000 deep": lambda: _nested(1, DEEP),
    "field 3 in itself, 100,000 deep": lambda: _nested(3, DEEP),
    f"a field 1 of {_MOST}": lambda: _field(1, b"a" * LARGE),
    f"a field 1 of {_MOST}, not UTF-8": lambda: _field(1, b"\xff" * LARGE),
    "a varint that does not end": lambda: _tag(_UNKNOWN, _VARINT) + b"\x80" * LARGE,
    f"{_MOST} of varints of ten bytes": lambda: _many(_LONG),
    f"{_MOST} of zeros": lambda: bytes(LARGE),
    f"{_MOST} at random": _random,
}


def _tensor(steps: int, width: int) -> bytes:
    return tensors.encode(np.zeros((steps, width), np.float32)).SerializeToString()


# Within a Tensor of either method.
TENSORS: Mapping[str, Make] = {
    f"{_MOST} of a shape, packed": lambda: _field(2, b"\1" * LARGE),
    f"{_MOST} of a shape, unpacked": lambda: _many(_tag(2, _VARINT) + b"\1"),
    f"{_MOST} of shapes of nothing": lambda: _many(_field(2, b"")),
    f"{_MOST} of no data, again and again": lambda: _many(_field(3, b"")),
    f"{_MOST} of unknown fields in a tensor": lambda: _many(_tag(_UNKNOWN, _VARINT) + b"\1"),
    f"{_MOST} of groups in a tensor": lambda: _many(_OPEN + _CLOSE),
    f"{_MOST} of data without a shape": lambda: _field(3, bytes(LARGE)),
}
_STATE = _field(1, b"") + _field(2, b"")

ENCODE: Mapping[str, Make] = {
    f"{_MOST} of empty sequences": lambda: _many(_field(3, b"")),
    f"{_MOST} of valid sequences of a step": lambda: _many(_field(3, _tensor(1, 12))),
    "1,024 valid sequences of a step": lambda: _field(3, _tensor(1, 12)) * 1024,
    f"{_MOST} of outputs, packed": lambda: _field(4, b"\1" * LARGE),
    f"{_MOST} of outputs, unpacked": lambda: _many(_tag(4, _VARINT) + b"\1"),
    f"{_MOST} of empty initial states": lambda: _many(_field(6, b"")),
    f"{_MOST} of initial states of nothing": lambda: _many(_field(6, _STATE)),
    f"one initial state of {_MOST} of nothing": lambda: _field(6, _many(_field(1, b""))),
    f"an honest request of {_MOST}": lambda: honest(LARGE),
} | {name: lambda make=make: _field(3, make()) for name, make in TENSORS.items()}

WIDE = 960  # of the model that honest large requests are for


def honest(size: int) -> bytes:
    """As large a request as `size` allows, of sequences of 512 steps, to the model `wide`."""
    x = np.zeros((512, WIDE), np.float32)
    sequences = size // x.nbytes
    request = pb.EncodeRequest(
        model="wide",
        sequences=[tensors.encode(x) for _ in range(sequences)],
        outputs=[pb.OUTPUT_FINAL],
    )
    return request.SerializeToString()


OPENING = pb.EncodeStreamRequest(options=pb.StreamOptions()).SerializeToString()


def _chunk(number: int, last: bool = True) -> bytes:
    x = np.zeros((1, 12), np.float32)
    chunk = pb.SequenceChunk(id=number, steps=tensors.encode(x), last=last)
    return _field(2, chunk.SerializeToString())


def _chunks(count: int) -> bytes:
    return b"".join(map(_chunk, range(1, count + 1)))


# After the message that opens the stream.
STREAM: Mapping[str, Make] = {
    f"{_MOST} of empty chunks": lambda: _many(_field(2, b"")),
    "20,000 valid chunks of a step in one message": lambda: _chunks(20_000),
    f"{_MOST} of the same chunk": lambda: _many(_chunk(1, last=False)),
    "chunks that begin 100,000 sequences": lambda: b"".join(
        _chunk(number, last=False) for number in range(1, 100_001)
    ),
    f"options of {_MOST} of nothing": lambda: _field(1, _many(_field(1, b""))),
    f"{_MOST} of outputs in options, packed": lambda: _field(1, _field(3, b"\1" * LARGE)),
    f"a chunk of {_MOST} of nothing": lambda: _field(2, _many(_field(2, b""))),
    f"an initial state of {_MOST} of nothing": lambda: _field(2, _field(4, _many(_field(1, b"")))),
} | {
    f"{name}, in a chunk": lambda make=make: _field(2, _field(2, make()))
    for name, make in TENSORS.items()
}
