"""Sequential models of Keras give here what Keras's equations give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilstm_server.model.storage.from_keras import read_keras
from tests.model.storage.from_keras.files import (
    Layer,
    run,
    sequential,
    write_keras,
    write_named,
)
from tests.model.storage.from_keras.layers import (
    batch_norm,
    bidirectional,
    conv,
    dense,
    depthwise,
    draw,
    embedding,
    layer_norm,
    lstm,
    plain,
    scaled,
    separable,
    time_distributed,
)
from tests.model.storage.from_keras.reading import close, encode, load

IDS, WIDTH = 20, 3
_ids = np.random.default_rng(1)

WRITERS: dict[str, Callable[..., Path]] = {".keras": write_keras, ".h5": write_named}

# A name, the layers after the input, and the output that is theirs.
MODELS: list[tuple[str, Sequence[Layer], str]] = [
    ("states", [lstm(WIDTH, 4, return_sequences=True)], "states"),
    ("final state", [lstm(WIDTH, 4)], "final"),
    ("both finals", [bidirectional(WIDTH, 4)], "final"),
    ("backwards", [lstm(WIDTH, 4, go_backwards=True), dense(4, 2)], "logits"),
    (
        "steps backwards",
        [lstm(WIDTH, 4, go_backwards=True, return_sequences=True), dense(4, 2)],
        "logits",
    ),
    ("no bias", [bidirectional(WIDTH, 4, use_bias=False), dense(8, 2)], "logits"),
    ("mean", [lstm(WIDTH, 4, return_sequences=True), plain("GlobalAveragePooling1D")], "mean"),
    ("max", [bidirectional(WIDTH, 4, return_sequences=True), plain("GlobalMaxPooling1D")], "max"),
    (
        "stack",
        [
            lstm(WIDTH, 4, return_sequences=True),
            plain("Dropout", rate=0.5),
            bidirectional(4, 5, return_sequences=True),
            lstm(10, 2, return_sequences=True),
            time_distributed(dense(2, 3, "softmax")),
        ],
        "probabilities",
    ),
    (
        "classifier",
        [bidirectional(WIDTH, 4), dense(8, 6, "relu"), dense(6, 1, "sigmoid")],
        "probabilities",
    ),
    (
        "norms",
        [
            batch_norm(WIDTH),
            lstm(WIDTH, 4, return_sequences=True),
            layer_norm(4),
            plain("Activation", activation="tanh"),
            dense(4, 2),
        ],
        "logits",
    ),
]
MODELS += [
    (
        "separable",
        [
            scaled(WIDTH),
            plain("Rescaling", scale=2.0, offset=0.5),
            separable(WIDTH, 4, 3, 2),
            plain("UnitNormalization", axis=-1),
            lstm(4, 4),
            dense(4, 2),
        ],
        "logits",
    ),
    (
        "depthwise",
        [depthwise(WIDTH, 2, 2), lstm(2 * WIDTH, 4), dense(4, 2)],
        "logits",
    ),
]
WINDOWS = [
    (
        f"{kind} of {size} by {stride}, {padding}",
        [
            plain(kind, pool_size=[size], strides=[stride], padding=padding),
            lstm(WIDTH, 4, return_sequences=True),
        ],
        "states",
    )
    for kind in ("MaxPooling1D", "AveragePooling1D")
    for size, stride, padding in ((3, 2, "valid"), (2, 2, "same"), (3, 1, "same"))
]
MODELS += [
    (
        f"{mode} of {'steps' if steps else 'finals'}",
        [bidirectional(WIDTH, 4, mode, return_sequences=steps), dense(4, 2)],
        "logits",
    )
    for mode in ("sum", "ave", "mul")
    for steps in (True, False)
]
# What "same" pads depends on the number of steps where a stride leaves an odd rest.
WINDOWS += [
    (
        f"{padding} kernel {kernel} stride {stride} dilation {dilation}",
        [conv(WIDTH, 4, kernel, padding, stride, dilation), lstm(4, 2, return_sequences=True)],
        "states",
    )
    for padding in ("same", "valid", "causal")
    for kernel in (1, 2, 3, 4)
    for stride, dilation in ((1, 1), (1, 2), (2, 1))
    if padding != "same" or stride == 1 or kernel in (1, 2, 4)
]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("layers", "output"), [model[1:] for model in MODELS], ids=[model[0] for model in MODELS]
)
def test_numbers(layers: Sequence[Layer], output: str, suffix: str, tmp_path: Path) -> None:
    """A model of floats gives Keras's numbers for sequences of several lengths."""
    check(WRITERS[suffix](tmp_path / f"model{suffix}", config_of(layers), layers), layers, output)


@pytest.mark.parametrize(
    ("layers", "output"), [model[1:] for model in WINDOWS], ids=[model[0] for model in WINDOWS]
)
def test_windows(layers: Sequence[Layer], output: str, tmp_path: Path) -> None:
    """Convolutions and poolings lie where Keras's do, for each number of steps."""
    check(write_keras(tmp_path / "model.keras", config_of(layers), layers), layers, output)


def config_of(layers: Sequence[Layer]) -> dict[str, Any]:
    return sequential(layers, [None, None, WIDTH])


def check(path: Path, layers: Sequence[Layer], output: str) -> None:
    encoder = load(path)
    for steps in (12, 9, 7):
        x = draw(steps, WIDTH)
        close(encode(encoder, x)[output], run(layers, x))


@pytest.mark.parametrize("suffix", WRITERS)
def test_ids(suffix: str, tmp_path: Path) -> None:
    """A tagger of ids gives Keras's probabilities, and the labels that they are largest for."""
    layers = [
        embedding(IDS, 5),
        bidirectional(5, 4, return_sequences=True),
        dense(8, 3, "softmax"),
    ]
    config = sequential(layers, [None, None])
    encoder = load(WRITERS[suffix](tmp_path / f"model{suffix}", config, layers))
    assert encoder.config.inputs["sequence"].ids == IDS
    ids = _ids.integers(0, IDS, 9)
    outputs, expected = encode(encoder, ids), run(layers, ids)
    close(outputs["probabilities"], expected)
    assert (outputs["labels"] == expected.argmax(1)).all()


def test_layers_of_one_class_keep_their_order(tmp_path: Path) -> None:
    """Eleven layers of one class, whose groups would sort otherwise, have each its own numbers."""
    layers = [lstm(WIDTH, 2, return_sequences=True)]
    layers += [lstm(2, 2, return_sequences=True) for _ in range(10)]
    config = sequential(layers, [None, None, WIDTH])
    x = draw(4, WIDTH)
    encoder = load(write_keras(tmp_path / "model.keras", config, layers))
    close(encode(encoder, x)["states"], run(layers, x))


def test_padding_ids_are_no_ids(tmp_path: Path) -> None:
    """`mask_zero` leaves out steps with id 0: the config says that no sequence may have it."""
    layers = [embedding(IDS, 5, mask_zero=True), lstm(5, 4)]
    config = sequential(layers, [None, None])
    encoder = load(write_keras(tmp_path / "model.keras", config, layers))
    assert encoder.config.inputs["sequence"].padding_id == 0


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        (
            [plain("Masking", mask_value=-1.0), lstm(WIDTH, 4)],
            [None, None, WIDTH],
            "steps of sequence that hold nothing but -1 are left out by the file's model",
        ),
        ([lstm(WIDTH, 4)], [None, 30, WIDTH], "input sequence has 30 steps in the file"),
        ([lstm(WIDTH, 4, stateful=True)], [None, None, WIDTH], "is stateful"),
    ],
)
def test_what_no_config_says_is_told(
    layers: Sequence[Layer], shape: Any, words: str, tmp_path: Path
) -> None:
    """What the numbers depend on beyond the sequence is noted, and the rest is served."""
    path = write_keras(tmp_path / "model.keras", sequential(layers, shape), layers)
    (note,) = read_keras(path).notes
    assert words in note
    x = draw(6, WIDTH)
    close(encode(load(path), x)["final"], run(layers, x))
