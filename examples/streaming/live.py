"""Encode a signal while it is still being recorded, with the server that `make serve` runs.

python examples/streaming/live.py [HOST:PORT]

Results come a block at a time, `lookahead_steps` after the block's own last step. The forward
direction's half of the states is that of the whole signal; the backward one's has seen no further
than the look-ahead. `bilstm-server lookahead` measures what that costs with a model and its data.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bilstm_client import Client, EncoderError, Live

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("target", nargs="?", default="localhost:50051", metavar="HOST:PORT")
target = parser.parse_args().target
rng = np.random.default_rng(0)


def recording() -> Iterator[NDArray[np.float64]]:
    """Ten steps every tenth of a second, as a device might give them."""
    for _ in range(20):
        time.sleep(0.1)
        yield rng.standard_normal((10, 12))


try:
    with Client(target) as client:
        live = Live(block_steps=20, lookahead_steps=10)
        for chunk in client.encode_chunks([recording()], live=live):
            end = chunk.first_step + len(chunk.states)
            print(f"steps {chunk.first_step} to {end}: forward exact {chunk.forward_exact}", end="")
            print(f", reverse exact {chunk.reverse_exact}")
except EncoderError as error:
    sys.exit(str(error))
