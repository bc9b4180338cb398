"""What a tagger computes beside its LSTM, by layer, in one run.

    python -m benchmarks.tagger

An embedding, a convolution, a BiLSTM, the emissions and a CRF, over one ragged batch. Each layer
runs on what the ones before it give, and they take turns in blocks.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.competitors import Run
from benchmarks.operator import medians
from benchmarks.tables import markdown, number
from benchmarks.workload import MEAN_LENGTH
from benchmarks.workload import lengths as draw_lengths
from bilstm_server.model import ModelConfig, RaggedBatch, SequenceEncoder
from bilstm_server.model.kernels import choose_kernel

CPU = torch.device("cpu")
SEQUENCES = 64
MOST = 0.3  # of the batch's time
LSTM = "lstm"
LAYERS: list[dict[str, Any]] = [
    {"name": "embedding", "type": "embedding", "width": 100},
    {"name": "conv1d", "type": "conv1d", "width": 100, "kernel": 3, "padding": 1},
    {"name": "relu", "type": "activation", "function": "relu"},
    {"name": LSTM, "type": "lstm", "hidden_size": 256, "num_layers": 2},
    {"name": "linear", "type": "linear", "width": 20},
    {"name": "crf", "type": "crf"},
]


def runs_of(kernel: str, batch: RaggedBatch, dtype: torch.dtype) -> dict[str, Run]:
    """Each layer, over what the layers before it give of one batch."""
    torch.manual_seed(0)
    x: Tensor = torch.randint(5000, (batch.steps,))
    form: dict[str, Any] = {"ids": 5000}
    runs: dict[str, Run] = {}
    for layer in LAYERS:
        config = _config_of(layer, form)
        encoder = SequenceEncoder(config).to(dtype).freeze(choose_kernel(kernel, CPU).kernel)
        run = partial(encoder, [x, x], batch, outputs=["y"])
        runs[layer["name"]] = run
        x, form = run()["y"], {"width": config.output_values["y"].width}
    return runs


def _config_of(layer: dict[str, Any], form: dict[str, Any]) -> ModelConfig:
    """A model of the layer, and of an LSTM that no output needs: every model has one."""
    unneeded = {"name": "unneeded", "type": "lstm", "inputs": ["unread"], "hidden_size": 1}
    return ModelConfig.model_validate(
        {
            "format": 2,
            "inputs": {"x": form, "unread": {"width": 1}},
            "layers": [layer | {"inputs": ["x"]}, unneeded],
            "outputs": {"y": layer["name"]},
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kernel", choices=["auto", "cpu", "reference"], default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help=f"exit 1 beyond {MOST:.0%}")
    chosen = parser.parse_args()
    batch = RaggedBatch(draw_lengths(np.random.default_rng(0), SEQUENCES, MEAN_LENGTH))
    with torch.inference_mode():
        runs = runs_of(chosen.kernel, batch, getattr(torch, chosen.dtype))
        times = medians(runs, chosen.rounds)
    whole = sum(times.values())
    print(
        f"{SEQUENCES} ragged sequences, {batch.steps:,} steps, {chosen.dtype}, "
        f"{torch.get_num_threads()} threads; medians of {chosen.rounds} rounds.\n"
    )
    cells = [[name, number(time), f"{time / whole:.1%}"] for name, time in times.items()]
    print("\n".join(markdown(["layer", "ms", "of the batch"], cells)))
    beside = 1 - times[LSTM] / whole
    print(f"\nBeside the LSTM: {beside:.1%} of the batch's time.")
    return 1 if chosen.check and beside > MOST else 0


if __name__ == "__main__":
    raise SystemExit(main())
