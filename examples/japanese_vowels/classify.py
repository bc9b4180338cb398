"""Classify one utterance on the server that `make serve` runs.

python examples/japanese_vowels/classify.py [HOST:PORT]
"""

from __future__ import annotations

import sys

import data

from bilstm_client import Client, EncoderError

_, test = data.load()
target = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
try:
    with Client(target) as client:
        labels = client.get_model().labels
        encoding = client.encode(test.sequences[0], outputs="logits")
        print(f"{labels[encoding.logits.argmax()]} (speaker {test.speakers[0]} in truth)")
except EncoderError as error:
    sys.exit(str(error))
