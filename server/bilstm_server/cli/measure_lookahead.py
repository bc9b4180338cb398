"""`bilstm-server lookahead`: how exact the states of live streams are."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..model.incremental import lookahead
from ..model.incremental.samples import read_sequences
from .commands import Commands, DefaultsFormatter, add_settings, positive
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "lookahead",
        help="measure how exact live states are",
        description="Encode sample sequences whole and live, block by block, and print how far the "
        "live states are from the exact ones for each number of steps to look ahead: the largest "
        "difference, and the root mean square (rms) of all, in the forward direction's half and in "
        "the backward one's. Of a model without states it takes the first output that has a row "
        "for each step.",
        formatter_class=DefaultsFormatter,
    )
    parser.set_defaults(run=_run)
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="an .npy or .npz of sequences")
    add("--model", type=Path, required=True, metavar="FOLDER", help="folder of the model")
    add("--block-steps", type=positive, default=64, metavar="N", help="steps of a block")
    add(
        "--lookahead-steps",
        type=_lookaheads,
        default="0,4,8,16,32,64",
        metavar="N,N,…",
        help="numbers of steps to look ahead, a line for each",
    )
    add_settings(parser, "device", "dtype", "kernel")


def _lookaheads(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be numbers of steps, N,N,…, got {text!r}")
    return [int(part) for part in text.split(",")]


def _run(parsed: argparse.Namespace) -> int:
    subject = lookahead.load_subject(parsed.model, parsed.device, parsed.dtype, parsed.kernel)
    (config,) = subject.encoder.config.inputs.values()
    sequences = read_sequences(parsed.files, config)
    say(lookahead.table(subject, sequences, parsed.block_steps, parsed.lookahead_steps))
    return 0
