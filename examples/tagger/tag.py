"""Ask the served tagger for the tags of a line's words.

python examples/tagger/tag.py [HOST:PORT]
"""

from __future__ import annotations

import sys

import numpy as np
from lines import ids_of

from bilstm_client import Client, EncoderError

LINES = [
    "add 3 cloves of garlic minced",
    "1 teaspoon ground cloves",
    "2 sticks butter melted",
    "two cinnamon sticks if you like",
]

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
sentences = [line.split() for line in LINES]
try:
    with Client(target) as client:
        encodings = client.encode_batch(
            [np.array(ids_of(words)) for words in sentences], model="tagger", outputs="labels"
        )
except EncoderError as error:
    sys.exit(str(error))
for words, encoding in zip(sentences, encodings, strict=True):
    tags = [encoding.label_names[label] for label in encoding.labels]
    print("  ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True)))
