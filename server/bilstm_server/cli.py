"""The commands of `bilstm-server`. Parses arguments, calls, and says in one line what failed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from . import threads  # noqa: F401  # before torch is imported

try:
    from pydantic import ValidationError
    from pydantic_settings import CliSettingsSource

    from .app import serve
    from .errors import StartError, first_problem
    from .logs import configure_logs
    from .model import Pooling, import_checkpoint
    from .settings import Settings
except ModuleNotFoundError as error:
    sys.exit(f"bilstm-server: {error.name} is missing; install bilstm[server]")

SettingsSource = CliSettingsSource[argparse.ArgumentParser]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bilstm-server", description="Serve bidirectional LSTM encoders over gRPC."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('bilstm')}")
    commands = parser.add_subparsers(dest="command", required=True)
    settings = _add_serve(commands)
    _add_import(commands)
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "serve":
            _serve(settings, parsed)
        else:
            _import(parsed)
    except StartError as error:
        return _fail(str(error))
    except ValidationError as error:
        return _fail(first_problem(error))
    return 0


def _add_serve(
    commands: Commands,
) -> SettingsSource:
    parser = commands.add_parser(
        "serve",
        help="serve models until SIGTERM",
        description="Serve models until SIGTERM, then drain. Every flag can also be set by an "
        "environment variable: --max-batch-tokens by BILSTM_MAX_BATCH_TOKENS.",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    return CliSettingsSource(
        Settings, root_parser=parser, cli_kebab_case=True, cli_hide_none_type=True
    )


def _serve(settings: SettingsSource, parsed: argparse.Namespace) -> None:
    source = settings(parsed_args=parsed)
    loaded = Settings(_cli_settings_source=source)  # type: ignore[call-arg]
    configure_logs(loaded.log_format)
    asyncio.run(serve(loaded))


def _add_import(commands: Commands) -> None:
    parser = commands.add_parser(
        "import",
        help="turn a checkpoint into a model folder",
        description="Turn a state_dict of nn.LSTM, with nn.Linear and nn.Embedding if it has "
        "them, into a model folder. All sizes are read off the tensors.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
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
        type=Pooling,
        choices=list(Pooling),
        default=Pooling.LAST,
        help="what the head reads off the BiLSTM's outputs",
    )
    add("--labels", default="", help="names of the classes, separated by commas")
    add("--model-version", type=int, default=1, help="the newest version is served by default")
    add("--ignore-unused", action="store_true", help="leave other tensors in the file out")


def _import(parsed: argparse.Namespace) -> None:
    config = import_checkpoint(
        parsed.checkpoint,
        parsed.out,
        lstm_prefix=parsed.lstm_prefix,
        head_prefix=parsed.head_prefix,
        embedding_prefix=parsed.embedding_prefix,
        pooling=parsed.pooling,
        labels=tuple(parsed.labels.split(",")) if parsed.labels else (),
        version=parsed.model_version,
        ignore_unused=parsed.ignore_unused,
    )
    print(f"{parsed.out}: {config.model_dump_json()}")
    print(f"serve it with: bilstm-server serve --model {parsed.out.name}={parsed.out}")


def _fail(reason: str) -> int:
    print(f"bilstm-server: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
