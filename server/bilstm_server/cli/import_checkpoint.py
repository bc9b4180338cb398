"""`bilstm-server import`: a checkpoint becomes a model folder."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from pathlib import Path

from ..model import Pooling, import_checkpoint
from ..quoting import one_line
from .commands import Commands
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "import",
        help="turn a checkpoint into a model folder",
        description="Turn a state_dict of nn.LSTM, with nn.Linear and nn.Embedding if it has "
        "them, into a model folder. All sizes are read off the tensors; what the head reads is not "
        "in them, and must be said.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=_run)
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        help=".pt saved with torch.save(model.state_dict()), or .safetensors",
    )
    add("--out", type=Path, required=True, help="the folder to write")
    add("--lstm-prefix", default="lstm.", help="of nn.LSTM's parameters")
    add("--head-prefix", default="fc.", help="of nn.Linear's parameters")
    add("--embedding-prefix", default="embedding.", help="of nn.Embedding's parameters")
    add(
        "--pooling",
        choices=[pooling.value for pooling in Pooling],
        default="",
        help="what the head reads off the LSTM's outputs, nothing but dropout in between; needed "
        "where there is a head; last: output[:, -1], the last step, of the reverse direction too; "
        "final: forward's last step and reverse's first step joined, "
        "torch.cat((h_n[-2], h_n[-1]), 1); mean, max: over the steps",
    )
    add("--labels", default="", help="names of the classes, separated by commas")
    add("--model-version", type=int, default=1, help="the newest version is served by default")
    add(
        "--ignore-unused",
        action="store_true",
        help="leave other tensors in the file out, and the head with them; those that may stand "
        "before the LSTM are refused all the same",
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
