"""Train the model that ships: a BiLSTM, the maximum over the steps, and a linear head.

    python examples/japanese_vowels/train.py [--seed 0] [--out FOLDER]

Features are normalised in training only: the normalisation is then folded into the first layer, so
the served model takes raw features. The same seed gives the same model. The hyper-parameters were
chosen by cross-validation on the 270 training utterances; the test set only reports.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import data
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilstm_server.model import BiLSTM, ModelConfig, RaggedBatch, SequenceEncoder, save_model
from bilstm_server.settings import SHIPPED_MODEL

SPEAKERS = 9
HIDDEN, STEPS, BATCH = 64, 300, 64
POOLINGS = ("final", "mean", "max")  # the head reads the last; callers may ask for all
PEAK_LR, WEIGHT_DECAY, MAX_GRADIENT = 0.02, 0.01, 1.0
LABEL_SMOOTHING, DROPOUT = 0.1, 0.2  # dropout: on the pooled vector
FRAME_NOISE = 0.7  # one draw for each frame and coefficient, in standard deviations
UTTERANCE_SHIFT = 0.4  # one draw for each utterance and coefficient: a microphone, a cold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=SHIPPED_MODEL.folder)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the products are small: a second thread would only wait
    torch.manual_seed(arguments.seed)
    train, test = data.load()
    frames = torch.from_numpy(np.concatenate(train.sequences))
    mean, std = frames.mean(0), frames.std(0)
    started_at = time.perf_counter()
    encoder = fit(train, mean, std)
    fold_normalisation(encoder.lstms[0], mean, std)
    print(
        f"seed {arguments.seed}: test accuracy {accuracy(encoder, test):.2%}, "
        f"{time.perf_counter() - started_at:.1f} s"
    )
    save_model(encoder, arguments.out)
    print(f"written to {arguments.out}")


def fit(train: data.Utterances, mean: Tensor, std: Tensor) -> SequenceEncoder:
    """A classifier of normalised utterances."""
    encoder = SequenceEncoder(
        ModelConfig.model_validate(
            {
                "inputs": {"features": {"width": len(mean)}},
                "layers": [
                    {"name": "lstm", "type": "lstm", "hidden_size": HIDDEN},
                    *({"name": name, "type": name, "inputs": ["lstm"]} for name in POOLINGS),
                    {"name": "head", "type": "linear", "inputs": ["max"], "width": SPEAKERS},
                ],
                "outputs": {"states": "lstm"}
                | {name: name for name in POOLINGS}
                | {"logits": "head"},
                "labels": {"logits": [f"speaker {number}" for number in range(SPEAKERS)]},
            }
        )
    )
    head = encoder.get_submodule("head")
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, STEPS, pct_start=0.2)
    for rows in islice(batches(len(train.sequences)), STEPS):
        x = augment([(torch.from_numpy(train.sequences[i]) - mean) / std for i in rows])
        batch = RaggedBatch([len(train.sequences[i]) for i in rows])
        pooled = encoder(x, batch, outputs=["max"])["max"]
        logits = head(F.dropout(pooled, DROPOUT))
        speakers = torch.from_numpy(train.speakers[rows])
        loss = F.cross_entropy(logits, speakers, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(encoder.parameters(), MAX_GRADIENT)
        optimizer.step()
        schedule.step()
    return encoder.eval()


def batches(count: int) -> Iterator[list[int]]:
    """The utterances of one step after the other, each once in an epoch; no end."""
    waiting: list[int] = []
    while True:
        while len(waiting) < BATCH:
            waiting += torch.randperm(count).tolist()
        yield waiting[:BATCH]
        waiting = waiting[BATCH:]


def augment(sequences: list[Tensor]) -> Tensor:
    """The sequences one after the other, with noise on each frame and a shift of each utterance."""
    shifted = [x + UTTERANCE_SHIFT * torch.randn(x.shape[1]) for x in sequences]
    x = torch.cat(shifted)
    return x + FRAME_NOISE * torch.randn_like(x)


@torch.no_grad()
def fold_normalisation(lstm: BiLSTM, mean: Tensor, std: Tensor) -> None:
    """Make `lstm`, trained on (x - mean) / std, give the same results for x itself.

    W (x - mean) / std + b = (W / std) x + (b - (W / std) mean), in float64 until it is stored.
    """
    for suffix in ("_l0", "_l0_reverse"):
        weight = lstm.get_parameter("weight_ih" + suffix)
        bias = lstm.get_parameter("bias_ih" + suffix)
        scaled = weight.double() / std.double()
        weight.copy_(scaled)
        bias.copy_(bias.double() - scaled @ mean.double())


@torch.no_grad()
def accuracy(encoder: SequenceEncoder, utterances: data.Utterances) -> float:
    x = torch.from_numpy(np.concatenate(utterances.sequences))
    batch = RaggedBatch([len(sequence) for sequence in utterances.sequences])
    logits = encoder(x, batch, outputs=["logits"])["logits"]
    return float((logits.argmax(1).numpy() == utterances.speakers).mean())


if __name__ == "__main__":
    main()
