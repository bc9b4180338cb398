"""What is sent of sequences of several inputs: the same steps of each, in bounded messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bilstm import tensors
from bilstm.sizes import MAX_INPUTS, MAX_MESSAGE_INPUTS
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client._streams.pages import RELEASE_BYTES, Pages
from bilstm_client._streams.sending import CHUNK_BYTES
from bilstm_client.types import Array
from tests.client.streams.sources import mapped, requests_of


def decoded(*sequences: Mapping[str, Any]) -> list[pb.EncodeStreamRequest]:
    return [pb.EncodeStreamRequest.FromString(message) for message in requests_of(*sequences)]


@given(
    steps=st.integers(1, 200_000),
    kinds=st.lists(st.sampled_from(["ids", "narrow", "wide"]), min_size=1, max_size=4),
)
@hypothesis_settings(deadline=None, derandomize=True, max_examples=25)
def test_the_same_steps_of_each(steps: int, kinds: list[str]) -> None:
    """A long sequence goes in chunks that have the same steps of each input, none lost, in messages
    of about so many bytes."""
    made = {
        "ids": np.arange(steps),
        "narrow": np.arange(steps, dtype=np.float32)[:, None],
        "wide": np.repeat(np.arange(steps, dtype=np.float32)[:, None], 9, axis=1),
    }
    x = {f"{kind}{place}": made[kind] for place, kind in enumerate(kinds)}
    messages = decoded(x)
    assert max(message.ByteSize() for message in messages) < CHUNK_BYTES + 1000
    chunks = [chunk for message in messages for chunk in message.chunks]
    assert [chunk.last for chunk in chunks] == [*[False] * (len(chunks) - 1), True]
    received: dict[str, list[Array]] = {name: [] for name in x}
    for chunk in chunks:
        assert len({named.tensor.shape[0] for named in chunk.inputs}) == 1
        for named in chunk.inputs:
            received[named.name].append(tensors.decode(named.tensor))
    for name, array in x.items():
        np.testing.assert_array_equal(np.concatenate(received[name]), array)


def test_no_more_inputs_than_a_message_may_have() -> None:
    """However many inputs there are, a message has as many as it may, and sequences keep their
    order."""
    one = {f"input{place}": [0] for place in range(MAX_INPUTS)}
    messages = decoded(*[one] * 600)
    counts = [sum(len(chunk.inputs) for chunk in message.chunks) for message in messages]
    assert max(counts) <= MAX_MESSAGE_INPUTS
    assert len(messages) == 3
    assert [chunk.id for message in messages for chunk in message.chunks] == list(range(600))


def resident_bytes(path: Path) -> int:
    """How much of a file that this process has mapped is in its memory."""
    found, resident = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1].islower() or line[:1].isdigit():
            found = line.endswith(str(path)) if "-" in line.split(" ", 1)[0] else found
        elif found and line.startswith("Rss:"):
            resident += 1024 * int(line.split()[1])
    return resident


def test_pages_of_several_files(tmp_path: Path) -> None:
    """The pages of all inputs' files are given back, however their pieces take turns."""
    arrays = []
    for name in "ab":
        (tmp_path / name).mkdir()
        arrays.append(mapped(np.ones(RELEASE_BYTES // 4, np.float32), tmp_path / name))
    pages = Pages()
    steps = len(arrays[0]) // 8
    for start in range(0, len(arrays[0]), steps):
        for array in arrays:
            assert array[start : start + steps].sum() == steps
            pages.read(array[start : start + steps])
    assert resident_bytes(tmp_path / "a" / "x.npy") > 0
    pages.release()
    assert [resident_bytes(tmp_path / name / "x.npy") for name in "ab"] == [0, 0]
