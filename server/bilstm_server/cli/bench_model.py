"""`bilstm-server bench`: what one's own model costs on this machine, and settings that suit it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.measuring import Measured, MeasuredBatch, measure
from ..engine.recommending import Line, recommend
from ..errors import OutOfMemory, StartError
from ..model.device import choose_threads, use_threads
from ..serving.loading import load_engine
from ..settings import Settings
from .commands import Commands, DefaultsFormatter, positive
from .output import say
from .setting_flags import add_config, add_given, settings_in_effect

_SETTINGS = ("device", "dtype", "kernel", "threads")
_NOISY = 1.2  # a spread, from which on the machine seems to have done something else


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "bench",
        help="measure a model on this machine, and recommend settings",
        description="Compute made-up sequences in batches of growing size, and print how long a "
        "lone sequence takes, tokens a second, the line that a batch's cost follows, and the "
        "settings that suit it. Measures the model alone: no network, no other callers. Other "
        "settings are those of `serve`, by variables and --config.",
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
    add_given(parser, *_SETTINGS)
    add_config(parser)


def _run(parsed: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(parsed).items() if name in _SETTINGS}
    settings = settings_in_effect(given, parsed)
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
    line, best = Line.fit(measured), measured.best
    recommended = recommend(measured, batch_seconds, settings.max_queue_seconds)
    values = recommended.settings
    # A longer sequence than fits into a batch would be refused anyhow.
    if recommended.max_batch_tokens < settings.max_sequence_tokens:
        values["max_sequence_tokens"] = recommended.max_batch_tokens
    flags = " ".join(f"--{n.replace('_', '-')} {v}" for n, v in sorted(values.items()))
    lines = [
        f"a lone sequence: {1e3 * measured.lone_seconds:.3f} ms",
        f"at the most:     {best.rate:,.0f} tokens/s, in batches of {best.sequences}",
        f"a batch costs:   {1e3 * line.fixed:.3f} ms, and {1e6 * line.per_token:.2f} µs a token",
        f"recommended:     {flags}",
    ]
    if not recommended.in_time:
        took = 1e3 * line.seconds(recommended.max_batch_tokens)
        lines.append(
            f"too slow:        such a batch takes {took:.3f} ms, more than --batch-seconds; a "
            "smaller one would compute far fewer tokens a second"
        )
    if measured.spread >= _NOISY:
        lines.append(
            f"noisy:           half of the runs of some batch took {measured.spread:.1f} times the "
            "shortest or longer; measure again while the machine does nothing else"
        )
    return "\n".join(lines)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be seconds, up to 3600, got {text!r}")
    return seconds
