"""`bilstm-server import`: a checkpoint becomes a model folder."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from pathlib import Path

from ..model import Pooling, import_checkpoint
from ..quoting import one_line
from .commands import Commands, DefaultsFormatter
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "import",
        help="turn a checkpoint into a model folder",
        description="Turn a state_dict of nn.LSTM, with nn.Linear and nn.Embedding if it has "
        "them, into a model folder. All sizes are read off the tensors; what the head reads is not "
        "in them, and must be said.",
        formatter_class=DefaultsFormatter,
    )
    parser.set_defaults(run=_run)
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        help="file to read: a .pt saved with torch.save(model.state_dict()), or a .safetensors",
    )
    add("--out", type=Path, required=True, help="model folder to write")
    add("--lstm-prefix", default="lstm.", help="what the names of nn.LSTM's parameters begin with")
    add("--head-prefix", default="fc.", help="what the names of the nn.Linear's begin with")
    add("--embedding-prefix", default="embedding.", help="what the nn.Embedding's begin with")
    add(
        "--pooling",
        choices=[pooling.value for pooling in Pooling],
        default="",
        help="what the head reads of the LSTM's outputs, with nothing but dropout in between; "
        "needed where there is a head. last: output[:, -1], the last step, of the backward "
        "direction too. final: torch.cat((h_n[-2], h_n[-1]), 1), the last step of the forward "
        "direction joined with the first step of the backward one. mean, max: over all steps",
    )
    add(
        "--labels",
        default="",
        help="names of the classes, in the order of the head's rows, separated by commas",
    )
    add(
        "--model-version",
        type=int,
        default=1,
        help="version of the model; requests that ask for none get the newest",
    )
    add(
        "--ignore-unused",
        action="store_true",
        help="leave out tensors that belong to none of the three, and the head with them; those "
        "that may stand before the LSTM are refused all the same",
    )
    add("--overwrite", action="store_true", help="replace a model that is in the folder already")


def _run(parsed: argparse.Namespace) -> int:
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as warned:
        config = import_checkpoint(
            parsed.checkpoint,
            parsed.out,
            lstm_prefix=parsed.lstm_prefix,
            head_prefix=parsed.head_prefix,
            embedding_prefix=parsed.embedding_prefix,
            pooling=Pooling(parsed.pooling) if parsed.pooling else None,
            labels=tuple(parsed.labels.split(",")) if parsed.labels else (),
            version=parsed.model_version,
            ignore_unused=parsed.ignore_unused,
            overwrite=parsed.overwrite,
        )
    for warning in warned:
        print(f"bilstm-server: {one_line(str(warning.message))}", file=sys.stderr)
    say(f"{parsed.out}: {config.model_dump_json()}")
    source = shlex.quote(f"{parsed.out.resolve().name}={parsed.out}")
    say(f"serve it with: bilstm-server serve --model {source}")
    return 0
