"""`bilstm-server bench`: what one's own model costs on this machine, and settings that suit it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.measuring import Measured, MeasuredBatch, measure
from ..errors import OutOfMemory, StartError
from ..model.device import choose_threads, use_threads
from ..serving.loading import load_engine
from ..settings import Settings
from .commands import Commands, DefaultsFormatter, add_settings, positive
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "bench",
        help="measure a model on this machine, and recommend settings",
        description="Compute made-up sequences in batches of growing size, and print how long a "
        "lone sequence takes, tokens a second, the line that a batch's cost follows, and the "
        "settings that suit it. Measures the model alone: no network, no other callers.",
        formatter_class=DefaultsFormatter,
    )
    parser.set_defaults(run=_run)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="folder of the model")
    add(
        "--steps",
        type=positive,
        default=64,
        metavar="N",
        help="mean length of a sequence, in steps",
    )
    add("--seconds", type=_seconds, default=10.0, metavar="S", help="about how long to measure")
    add(
        "--batch-seconds",
        type=_seconds,
        default=0.1,
        metavar="S",
        help="longest time that a batch may take to compute: requests that come in the meantime "
        "wait for its end",
    )
    add_settings(parser, "device", "dtype", "kernel")


def _run(parsed: argparse.Namespace) -> int:
    settings = Settings(device=parsed.device, dtype=parsed.dtype, kernel=parsed.kernel)
    threads = choose_threads(settings.threads)
    use_threads(threads)
    engine = load_engine(parsed.model, settings)
    say(
        f"{parsed.model}: {engine.kernel} kernel on {engine.device}, {engine.dtype}, "
        f"{threads} threads; sequences of {parsed.steps} steps in the mean"
    )
    say(_ROW.format("sequences", "tokens", "milliseconds", "tokens/s"))
    try:
        measured = measure(
            engine,
            parsed.steps,
            settings.max_batch_tokens,
            settings.max_batch_sequences,
            parsed.seconds,
            lambda batch: say(_row(batch)),
        )
    except OutOfMemory as error:
        raise StartError(f"{parsed.model}: {error}") from error
    say(_summary(measured, parsed.batch_seconds, settings))
    return 0


_ROW = "{:>10} {:>10} {:>13} {:>11}"


def _row(batch: MeasuredBatch) -> str:
    return _ROW.format(
        batch.sequences, f"{batch.tokens:,}", f"{1e3 * batch.seconds:.3f}", f"{batch.rate:,.0f}"
    )


def _summary(measured: Measured, batch_seconds: float, settings: Settings) -> str:
    fixed, per_token = measured.line
    best = measured.best
    recommended = measured.recommended(batch_seconds, settings.max_queue_seconds)
    # A longer sequence than fits into a batch would be refused anyhow.
    if recommended["max_batch_tokens"] < settings.max_sequence_tokens:
        recommended["max_sequence_tokens"] = recommended["max_batch_tokens"]
    flags = " ".join(f"--{n.replace('_', '-')} {v}" for n, v in sorted(recommended.items()))
    return "\n".join(
        (
            f"a lone sequence: {1e3 * measured.lone_seconds:.3f} ms",
            f"at the most:     {best.rate:,.0f} tokens/s, in batches of {best.sequences}",
            f"a batch costs:   {1e3 * fixed:.3f} ms, and {1e6 * per_token:.2f} µs a token",
            f"recommended:     {flags}",
        )
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be seconds, up to 3600, got {text!r}")
    return seconds
