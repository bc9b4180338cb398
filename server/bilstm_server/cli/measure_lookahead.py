"""`bilstm-server lookahead`: how exact the states of live streams are."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..model.incremental import lookahead
from .commands import Commands, add_settings, positive
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "lookahead",
        help="measure how exact live states are",
        description="Encode sample sequences whole and live, block by block, and print how far the "
        "live states are from the exact ones for each number of steps to look ahead.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=_run)
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help=".npy or .npz of sequences")
    add(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        default=argparse.SUPPRESS,  # help would say that it is None
        help="the model's folder",
    )
    add("--block-steps", type=positive, default=64, metavar="N", help="of a block")
    add(
        "--lookahead-steps",
        type=_lookaheads,
        default="0,4,8,16,32,64",
        metavar="N,N,…",
        help="of a block's context",
    )
    add_settings(parser, "device", "dtype", "kernel")


def _lookaheads(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be numbers of steps, N,N,…, got {text!r}")
    return [int(part) for part in text.split(",")]


def _run(parsed: argparse.Namespace) -> int:
    encoder = lookahead.load_encoder(parsed.model, parsed.device, parsed.dtype, parsed.kernel)
    sequences = lookahead.read_sequences(parsed.files, encoder.config)
    say(lookahead.table(encoder, sequences, parsed.block_steps, parsed.lookahead_steps))
    return 0
