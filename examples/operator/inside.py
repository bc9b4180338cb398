"""What nn.LSTM calls for each form of input, what padding gets wrong, and what it costs.

    python examples/operator/inside.py

On the CPU, with the 370 utterances of the Japanese Vowels test set, which are 7 to 29 steps long.
docs/operator.md explains what this prints.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["KINETO_LOG_LEVEL"] = "6"  # or the profiler writes lines of its own

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence, unpack_sequence
from torch.profiler import ProfilerActivity, profile

DATA = Path(__file__).parents[1] / "japanese_vowels" / "japanese_vowels.npz"
WIDTH, HIDDEN = 12, 64
FORMS: dict[str, Callable[[list[Tensor]], Tensor | PackedSequence]] = {
    "one sequence": lambda sequences: sequences[0],
    "padded": pad_sequence,
    "packed": lambda sequences: pack_sequence(sequences, enforce_sorted=False),
}
CELLS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "float64": {"dtype": torch.float64},
    "float32, projected": {"dtype": torch.float32, "proj_size": 32},
}


def utterances() -> list[Tensor]:
    """The test set: each [T, 12]."""
    with np.load(DATA) as file:
        sequences = np.split(file["x"], np.cumsum(file["lengths"])[:-1])[int(file["train"]) :]
    return [torch.from_numpy(sequence) for sequence in sequences]


def events(function: Callable[[], object]) -> list[Any]:
    """What torch's profiler saw of it."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    return list(profiler.events())


def calls(lstm: nn.LSTM, x: Tensor | PackedSequence) -> Counter[str]:
    """How often aten::lstm calls each operation."""
    (found,) = (event for event in events(lambda: lstm(x)) if event.name == "aten::lstm")
    return Counter(child.name for child in found.cpu_children)


def print_paths(sequences: list[Tensor]) -> None:
    steps = max(len(sequence) for sequence in sequences)
    print(
        f"calls that aten::lstm makes, one bidirectional layer, B = {len(sequences)}, T = {steps}"
    )
    for mode in (torch.inference_mode, torch.enable_grad):
        print(f"{mode.__name__:20}" + "".join(f"{form:>20}" for form in FORMS))
        for cell, arguments in CELLS.items():
            lstm = nn.LSTM(WIDTH, HIDDEN, bidirectional=True, **arguments)
            cast = [sequence.to(arguments["dtype"]) for sequence in sequences]
            with mode():
                found = [calls(lstm, make(cast)) for make in FORMS.values()]
            print(f"  {cell:18}" + "".join(f"{_words(one):>20}" for one in found))


def _words(found: Counter[str]) -> str:
    onednn = found["aten::mkldnn_rnn_layer"]
    return f"{found.total()}, {onednn} of oneDNN" if onednn else str(found.total())


def print_packed(sequences: list[Tensor]) -> None:
    packed = pack_sequence(sequences, enforce_sorted=False)
    print(f"\nbatch_sizes, whose sum is {len(packed.data)}:\n  {packed.batch_sizes.tolist()}")
    found = calls(nn.LSTM(WIDTH, HIDDEN, bidirectional=True), packed)
    print("calls for packed input, by name:")
    print("  " + ", ".join(f"{count} {name}" for name, count in found.most_common()))
    for name, function in (
        ("pack_sequence", lambda: pack_sequence(sequences, enforce_sorted=False)),
        ("unpack_sequence", lambda: unpack_sequence(packed)),
    ):
        padding = [e.name for e in events(function) if e.cpu_parent is None and "pad" in e.name]
        print(f"{name} calls {' and '.join(padding)}")


def print_errors(sequences: list[Tensor]) -> None:
    """The largest differences of padded from packed input: one layer, then two."""
    print(f"\npadded against packed, {len(sequences)} sequences, largest differences:")
    for layers in (1, 2):
        torch.manual_seed(0)
        lstm = nn.LSTM(WIDTH, HIDDEN, layers, bidirectional=True).eval()
        with torch.inference_mode():
            padded, (padded_h, _) = lstm(pad_sequence(sequences))
            packed, (h_n, _) = lstm(pack_sequence(sequences, enforce_sorted=False))
        pairs = zip(padded.unbind(1), unpack_sequence(packed), strict=True)
        errors = torch.cat([(one[: len(own)] - own).abs() for one, own in pairs])  # [N, 2H]
        h_error = (padded_h[-2:] - h_n[-2:]).abs().amax(dim=(1, 2))
        forward, backward = errors[:, :HIDDEN].max(), errors[:, HIDDEN:].max()
        print(
            f"  layers {layers}: outputs forward {forward:.1e}, backward {backward:.1e};"
            f" h_n forward {h_error[0]:.1e}, backward {h_error[1]:.1e}"
        )


def print_multiplications(lengths: list[int]) -> None:
    """W_ih x and W_hh h of one bidirectional layer: 2 * 4H * (D + H) a step."""
    each = 2 * 4 * HIDDEN * (WIDTH + HIDDEN)
    print(f"\nmultiplications of one bidirectional layer, {each:,} a step:")
    steps = sum(lengths)
    print(f"  {'ragged':22}{steps:7,} steps {steps * each / 1e6:5.0f} million")
    for size in (32, 64, len(lengths)):
        batches = [lengths[first : first + size] for first in range(0, len(lengths), size)]
        padded = sum(len(batch) * max(batch) for batch in batches)
        print(
            f"  {f'padded, batches of {size}':22}{padded:7,} steps"
            f" {padded * each / 1e6:5.0f} million, {padded / steps:.2f} times as many"
        )


def main() -> None:
    torch.set_num_threads(1)  # the products are small: a second thread would only wait
    warnings.filterwarnings("ignore", "LSTM with projections")  # is not supported with oneDNN
    sequences = utterances()
    print_paths(sequences[:32])
    print_packed(sequences[:32])
    print_errors(sequences)
    print_multiplications([len(sequence) for sequence in sequences])


if __name__ == "__main__":
    main()
