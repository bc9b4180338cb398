"""Real connections, damaged at random, from the preface to the last frame. Pure: the same random
numbers make the same damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from .messages import NUMBERS, damaged_bytes
from .traffic import Frame


def damaged_frames(frames: Sequence[Frame], preface: bytes, random: Random) -> bytes:
    """What a connection sends: the preface and its frames, with damage to one of these, or to which
    there are, or to the bytes of all of it."""
    at = random.randrange(len(frames))
    parts = [frame.serialize() for frame in frames]
    damage = random.choice(_FRAME_DAMAGE)
    match random.randrange(8):
        case 0:
            return damaged_bytes(preface, random) + b"".join(parts)
        case 1:
            return damaged_bytes(preface + b"".join(parts), random)
        case 2:
            del parts[at]
        case 3:
            parts[at:at] = [parts[at]] * random.choice((1, 2, 100))
        case 4:
            random.shuffle(parts)
        case _:
            parts[at] = damage(frames[at], random)
    return preface + b"".join(parts)


def _damaged_payload(frame: Frame, random: Random) -> bytes:
    return frame._replace(payload=damaged_bytes(frame.payload, random)).serialize()


def _other_head(frame: Frame, random: Random) -> bytes:
    streams = (0, 1, 2, frame.stream + 1, frame.stream + 2, 2**31 - 1, 2**31, 2**32 - 1)
    match random.randrange(3):
        case 0:
            return frame._replace(kind=random.randrange(12)).serialize()
        case 1:
            return frame._replace(flags=random.randrange(256)).serialize()
        case _:
            return frame._replace(stream=random.choice(streams)).serialize()


def _other_length(frame: Frame, random: Random) -> bytes:
    length = random.choice((0, 1, len(frame.payload) + 1, 16_385, 2**20, 2**24 - 1))
    return length.to_bytes(3, "big") + frame.serialize()[3:]


def _settings(_: Frame, random: Random) -> bytes:
    pairs = (
        random.choice((0, 1, 2, 3, 4, 5, 6, 8, 9, 0xFE03, 0xFFFF)).to_bytes(2, "big")
        + (random.choice(NUMBERS) % 2**32).to_bytes(4, "big")
        for _ in range(random.choice((1, 2, 200)))
    )
    return Frame(
        4, random.choice((0, 0, 0, 1)), random.choice((0, 0, 0, 1)), b"".join(pairs)
    ).serialize()


def _control(frame: Frame, random: Random) -> bytes:
    """A frame that ends or steers: priority, reset, push, ping, goaway, window, continuation."""
    kind = random.choice((2, 3, 5, 6, 7, 8, 9))
    payload = random.choice(
        (b"", bytes(4), b"\x7f\xff\xff\xff", b"\xff" * 5, bytes(8), random.randbytes(9))
    )
    stream = random.choice((0, frame.stream, 1, 3, 99))
    return Frame(kind, random.choice((0, 1, 4, 255)), stream, payload).serialize()


def _padded(frame: Frame, random: Random) -> bytes:
    padding = bytes((random.choice((0, 1, 255)),))
    return frame._replace(flags=frame.flags | 8, payload=padding + frame.payload).serialize()


_FRAME_DAMAGE: tuple[Callable[[Frame, Random], bytes], ...] = (
    _damaged_payload,
    _other_head,
    _other_length,
    _settings,
    _control,
    _padded,
)
