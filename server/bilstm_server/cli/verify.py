"""`bilstm-server verify`: a model folder gives what its owner's module gives, or examples say."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ModelError
from ..exporting.converting import convert
from ..exporting.owner.code import current_directory
from ..exporting.verifying import Verified, verify_examples, verify_module
from ..model.storage.folder import read_config
from ..quoting import one_line
from .commands import Commands, DefaultsFormatter
from .module_flags import FACTORY, add_call, check_needless, owners_call
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "verify",
        help="prove that a model folder gives what its module gives",
        description="Serve a model folder on this machine, for itself alone, and compare its "
        "outputs with what the PyTorch module gives, or with examples in a file: for lone "
        "sequences, in a batch, in streams and in slices. Prints the largest difference of each "
        "output, beside the number itself or the output's median where these are above 1, and ends "
        "with 1 if one is more than 1e-4, or a label differs.",
        formatter_class=DefaultsFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the model")
    judge = parser.add_mutually_exclusive_group(required=True)
    judge.add_argument("--module", metavar="pkg.module:factory", help=FACTORY)
    judge.add_argument(
        "--expect",
        type=Path,
        metavar="FILE",
        help="an .npz of examples: arrays inputs.NAME.0, outputs.NAME.0, inputs.NAME.1 and so on, "
        "of sequences without a batch dimension, and what the module gives for each alone",
    )
    add_call(parser)


def _run(parsed: argparse.Namespace) -> int:
    verified = _by_module(parsed) if parsed.module else _by_examples(parsed)
    say(verified.proof.table())
    for note in verified.notes:
        say(one_line(note))
    if not verified.proof.holds:
        raise ModelError(
            f"{parsed.folder}: gives other outputs than expected: {verified.proof.words}"
        )
    say(f"proven by {verified.proof.words}")
    return 0


def _by_module(parsed: argparse.Namespace) -> Verified:
    read_config(parsed.folder)  # which may not be there: before anything is run
    with current_directory():
        call = owners_call(parsed.module, parsed)
        for note in call.notes:
            say(one_line(note))
        converted = convert(call.module, call.example, kwargs=call.kwargs, outputs=call.outputs)
        return verify_module(parsed.folder, converted)


def _by_examples(parsed: argparse.Namespace) -> Verified:
    check_needless(parsed)
    return verify_examples(parsed.folder, parsed.expect)
