"""States that are written to files as they arrive: `save_states` of both clients."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from client_streams import (
    SEQUENCES,
    Streams,
    X,
    assert_states,
)
from client_streams import client as client
from client_streams import connect as connect
from client_streams import fake as fake
from client_streams import faked as faked
from streaming import HANGS_AFTER_SECONDS, INPUT_SIZE, Break, FakeServer, serving, sums

from bilstm_client import (
    NotSaved,
    ServerError,
)
from bilstm_client.types import Encoding


def test_save_states(client: Streams, tmp_path: Path) -> None:
    """States go to files as numpy reads them, and come back as maps of these."""
    alone = client.encode_batch(SEQUENCES, outputs=["states", "final"])
    for key, encoding in client.encode_stream(
        ((str(i), x) for i, x in enumerate(SEQUENCES)),
        outputs=["states", "final"],
        save_states=lambda key: tmp_path / f"{key}.npy",
    ):
        expected = alone[int(key)]
        assert isinstance(encoding.states, np.memmap)
        assert_states(encoding, expected.states)
        final, expected_final = encoding.final, expected.final
        np.testing.assert_allclose(final, expected_final, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.load(tmp_path / f"{key}.npy"), encoding.states)
    assert len(list(tmp_path.iterdir())) == len(SEQUENCES)


def test_save_states_of_a_stream_that_ends(
    faked: Streams, fake: FakeServer, tmp_path: Path
) -> None:
    """A file is whole or not there."""
    fake.reply_steps = 2
    fake.breaks = [Break(replies=6, code=grpc.StatusCode.INTERNAL)]
    with pytest.raises(ServerError):
        list(faked.encode_stream(SEQUENCES, save_states=lambda index: tmp_path / f"{index}.npy"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npy", "1.npy"]


def test_save_states_where_none_can_be(faked: Streams, tmp_path: Path) -> None:
    """A file that can't be written is its own error."""
    path = tmp_path / "none" / "x.npy"
    with pytest.raises(NotSaved) as caught:
        list(faked.encode_stream([("a", X)], save_states=lambda _: path))
    assert (caught.value.index, caught.value.key, caught.value.filename) == (0, "a", str(path))
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOENT


def test_save_states_where_some_can_not_be(
    faked: Streams, fake: FakeServer, tmp_path: Path
) -> None:
    """It is that of its sequence alone, where errors are returned."""
    fake.reply_steps = 2
    folders = [tmp_path, tmp_path / "none", tmp_path]
    source = enumerate([X, X, X])
    results = list(
        faked.encode_stream(
            source, save_states=lambda key: folders[key] / f"{key}.npy", on_error="return"
        )
    )
    assert [type(result) for _, result in results] == [Encoding, NotSaved, Encoding]
    np.testing.assert_array_equal(results[2][1].states, sums(X))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npy", "2.npy"]


@pytest.mark.parametrize("steps", [3, 50_000])
def test_save_states_on_a_full_disk(steps: int, faked: Streams, tmp_path: Path) -> None:
    """So is what there is no room for, whether that is found while it is written or at its end."""
    (tmp_path / f".x.npy.{os.getpid()}.tmp").symlink_to("/dev/full")
    error, encoding = faked.encode_stream(
        [np.ones((steps, INPUT_SIZE)), X],
        save_states=lambda key: None if key else tmp_path / "x.npy",
        on_error="return",
    )
    assert list(tmp_path.iterdir()) == []
    assert isinstance(error, NotSaved)
    assert error.errno == errno.ENOSPC
    assert isinstance(encoding, Encoding)


MEMORY = """
import re, sys
import numpy as np
from pathlib import Path
from bilstm_client import Client

def most():  # that was ever resident since it was reset
    (kib,) = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) * 1024

target, folder, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Client(target) as client:
    list(client.encode_stream([np.ones((1000, 5), "f8")]))
    Path("/proc/self/clear_refs").write_text("5")
    before = most()
    x = np.load(f"{folder}/x.npy", mmap_mode="r")
    (encoding,) = client.encode_stream([x], save_states=lambda _: f"{folder}/y.npy")
    peak = most()
    assert encoding.states.shape == (steps, 5)
    assert encoding.states[-1, 0] == steps
print(peak - before)
"""


def test_memory(fake: FakeServer, tmp_path: Path) -> None:
    """A sequence from a file to a file takes a fraction of its size of the client's memory."""
    steps = 4_000_000  # 160 MB as float64
    fake.reply_steps = 50_000
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (steps, INPUT_SIZE))[:] = 1
    with serving(fake) as target:
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, target, str(tmp_path), str(steps)],
            capture_output=True,
            text=True,
            timeout=2 * HANGS_AFTER_SECONDS,
        )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 64 * 2**20
