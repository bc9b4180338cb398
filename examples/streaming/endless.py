"""Encode sequences without end, as they are made, with the server that `make serve` runs.

python examples/streaming/endless.py [HOST:PORT]

The generator is asked for its next sequence only as fast as the server takes them. The stream ends
with `closing`: to leave the loop alone would not end it, as `results` still holds it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import numpy as np
from numpy.typing import NDArray

from bilstm_client import Client, EncoderError

RESULTS = 1_000
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("target", nargs="?", default="localhost:50051", metavar="HOST:PORT")
target = parser.parse_args().target
rng = np.random.default_rng(0)


def measurements() -> Iterator[tuple[str, NDArray[np.float64]]]:
    for number in count():
        yield f"event {number}", rng.standard_normal((rng.integers(5, 30), 12))


try:
    with Client(target) as client:
        labels = client.get_model().labels
        results = client.encode_stream(measurements(), in_flight=32, outputs="logits")
        with closing(results):
            for done, (name, encoding) in enumerate(results, start=1):
                if done % 100 == 0:
                    print(f"{name}: {labels[encoding.logits.argmax()]}")
                if done == RESULTS:
                    break
except EncoderError as error:
    sys.exit(str(error))
