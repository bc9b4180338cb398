"""Encode every .npy file of a folder, however large, with the server that `make serve` runs.

python examples/streaming/folder.py FOLDER [HOST:PORT]

Neither a file nor its states need fit into memory: files are read as they are sent, and states
written to FILE.states.npy as they arrive. A file that can't be read, or that the server refuses,
does not stop the others. `bilstm encode --stream FOLDER` does so, too, and goes into folders below.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bilstm_client import Client, EncoderError, SequenceFailure

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("folder", type=Path, metavar="FOLDER")
parser.add_argument("target", nargs="?", default="localhost:50051", metavar="HOST:PORT")
given = parser.parse_args()


def files() -> Iterator[tuple[Path, Any]]:
    for path in sorted(given.folder.glob("*.npy")):
        if path.name.endswith(".states.npy"):
            continue
        try:
            sequence = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            print(f"{path.name}: {error}")
        else:
            yield path, sequence


try:
    with Client(given.target) as client:
        results = client.encode_stream(
            files(), on_error="return", save_states=lambda path: path.with_suffix(".states.npy")
        )
        for path, result in results:
            if isinstance(result, SequenceFailure):
                print(f"{path.name}: {result}")
            else:
                print(f"{path.name}: {len(result.states)} steps")
except EncoderError as error:
    sys.exit(str(error))
