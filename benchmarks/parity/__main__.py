"""The operator beside nn.LSTM: the largest differences, and the time, in one table.

    python -m benchmarks.parity

Every case in every type on every kernel of this machine, with the same weights and inputs. Exits
with 1, and names the row, where one is further from nn.LSTM than the operator promises.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from benchmarks.parity.cases import CASES, draw
from benchmarks.parity.measuring import PROMISES, Row, bound, measure, name_of
from bilstm_server.model.kernels import NAMES, Choice, KernelUnavailable, choose_kernel

WORDS = """\
The differences: a is ours, b is nn.LSTM's.
  outputs, states   the largest |a - b| / (1 + |b|)
  grad x, weights   of the gradients of the input (and the initial states) and of the weights, the
                    largest |a - b| over the tensor's largest |b|; - where a kernel has none
  in bfloat16       the norm of a - b over that of b, where b is nn.LSTM's in float64
The times are medians of {repetitions} calls without gradients, in turns.
speed-up is nn.LSTM's time over ours."""
HEAD = (
    f"{'kernel':11}{'type':10}{'case':20}{'outputs':>9}{'states':>9}{'grad x':>9}"
    f"{'weights':>9}{'nn.LSTM ms':>12}{'ours ms':>9}{'speed-up':>10}"
)


def device_of(kernel: str) -> torch.device:
    return torch.device("cuda" if kernel == "gpu" and torch.cuda.is_available() else "cpu")


def kernels() -> tuple[list[Choice], dict[str, str]]:
    """Those of this machine, the readable one first; of the others, why they are not here."""
    found: list[Choice] = []
    missing: dict[str, str] = {}
    for name in reversed(NAMES):
        try:
            found.append(choose_kernel(name, device_of(name)))
        except KernelUnavailable as error:
            missing[name] = str(error)
    if not torch.cuda.is_available():
        missing["gpu"] = "torch sees no CUDA device"
    return found, missing


def line(row: Row) -> str:
    weights = "-" if row.weight_gradients is None else f"{row.weight_gradients:.1e}"
    return (
        f"{row.kernel:11}{name_of(row.dtype):10}{row.case:20}{row.outputs:9.1e}{row.states:9.1e}"
        f"{row.input_gradients:9.1e}{weights:>9}{row.theirs_ms:12.2f}{row.ours_ms:9.2f}"
        f"{row.theirs_ms / row.ours_ms:10.1f}"
    )


def print_rows(choice: Choice, chosen: argparse.Namespace) -> tuple[int, list[str]]:
    """A line for each case of a kernel, and one of what it leaves to the reference.

    Returns how many rows there are, and what of them is beyond the promises.
    """
    count, beyond = 0, []
    left: list[str] = []
    for dtype in PROMISES:
        passed = []
        for case in CASES:
            drawn = draw(case, chosen.hidden, chosen.sequences)
            drawn = drawn.to(device_of(choice.name)).to(dtype)
            if row := measure(choice, drawn, chosen.repetitions):
                print(line(row), flush=True)
                count += 1
                beyond += row.beyond
            else:
                passed.append(f"{case.name} in {name_of(dtype)}")
        left += passed if len(passed) < len(CASES) else [f"all of {name_of(dtype)}"]
    if left:
        print(f"left to the reference: {'; '.join(left)}")
    print()
    return count, beyond


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--hidden", type=int, default=64, help="hidden size, and width of the input"
    )
    parser.add_argument("--sequences", type=int, default=16, help="sequences in a batch")
    parser.add_argument("--repetitions", type=int, default=5, help="calls of each that are timed")
    chosen = parser.parse_args(given)
    torch.backends.cudnn.allow_tf32 = False  # nn.LSTM in float32, not in TF32
    began = time.perf_counter()
    choices, missing = kernels()
    print(
        f"BiLSTM beside nn.LSTM of torch {torch.__version__}: hidden {chosen.hidden}, ragged "
        f"batches of {chosen.sequences}, {torch.get_num_threads()} threads.\n"
        f"{WORDS.format(repetitions=chosen.repetitions)}\nPromised: "
        + "; ".join(
            f"{name_of(dtype)} {bound(promise.results)}, gradients {bound(promise.gradients)}"
            for dtype, promise in PROMISES.items()
        )
        + f".\n\n{HEAD}"
    )
    count, beyond = 0, []
    for choice in choices:
        rows, own = print_rows(choice, chosen)
        count += rows
        beyond += own
    for name, reason in missing.items():
        print(f"{name}: not here: {reason}")
    seconds = time.perf_counter() - began
    print(f"{count} rows in {seconds:.0f} s, {len(beyond)} differences beyond what is promised")
    for words in beyond:
        print(f"FAILED: {words}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
