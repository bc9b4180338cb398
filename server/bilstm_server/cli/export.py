"""`bilstm-server export`: a module, in the owner's own code, becomes a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..exporting.owner.code import current_directory
from ..exporting.saving import check_folder, export_proven
from ..quoting import one_line
from .commands import Commands, DefaultsFormatter
from .module_flags import FACTORY, add_call, owners_call
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "export",
        help="turn a PyTorch module into a model folder, and prove it",
        description="Turn a PyTorch module into a model folder: its code is run here, what it "
        "computes is recorded as layers, and what would be served is compared with what the module "
        "itself gives, for lone sequences of several lengths, in a batch, in streams and in "
        "slices. Nothing is written if a number differs by more than 1e-4, beside itself or "
        "its output's median where these are above 1, or a label at all. "
        "What has no layer is refused, with the line of the module that needs it.",
        formatter_class=DefaultsFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("factory", metavar="pkg.module:factory", help=FACTORY)
    add_call(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="model folder to write")
    add("--overwrite", action="store_true", help="replace a model that is in the folder already")
    add(
        "--labels",
        default="",
        metavar="A,B,…",
        help="names of the classes, in their order, separated by commas",
    )
    add(
        "--model-version",
        type=int,
        default=1,
        metavar="N",
        help="version of the model; requests that ask for none get the newest",
    )


def _run(parsed: argparse.Namespace) -> int:
    check_folder(parsed.out, parsed.overwrite, parsed.model_version)
    with current_directory():
        call = owners_call(parsed.factory, parsed)
        for note in call.notes:
            say(one_line(note))
        exported = export_proven(
            call.module,
            parsed.out,
            example=call.example,
            kwargs=call.kwargs,
            outputs=call.outputs,
            labels=parsed.labels.split(",") if parsed.labels else None,
            version=parsed.model_version,
            overwrite=parsed.overwrite,
        )
    for line in exported.lines():
        say(line)
    return 0
