"""The commands of `bilstm-server`. Parses arguments, calls, and says in one line what failed."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, get_args

import structlog
from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from .errors import DeviceLost, StartError, first_problem, one_line
from .lifecycle import serve
from .logs import configure_logs
from .model import Pooling, import_checkpoint
from .model.incremental import lookahead
from .model.kernels.cpu.build import VARIANTS, BuildError, build
from .model.kernels.cpu.kernel import compile_fastest
from .settings import Settings, check_environment

log = structlog.get_logger()

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
    _add_compile(commands)
    _add_lookahead(commands)
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "serve":
            return _serve(settings, parsed)
        if parsed.command == "compile":
            _compile(parsed)
        elif parsed.command == "lookahead":
            _lookahead(parsed)
        else:
            _import(parsed)
    except StartError as error:
        return _fail(str(error))
    return 0


def _add_serve(commands: Commands) -> SettingsSource:
    parser = commands.add_parser(
        "serve",
        help="serve models until SIGTERM",
        description="Serve models until SIGTERM, then drain. Every flag can also be set by an "
        "environment variable: --max-batch-tokens by BILSTM_MAX_BATCH_TOKENS.",
    )
    return CliSettingsSource(
        Settings, root_parser=parser, cli_kebab_case=True, add_argument_method=_add_setting
    )


def _add_setting(parser: argparse.ArgumentParser, flag: str, **options: Any) -> None:
    """Add a flag, with words for its value in place of its Python type."""
    kind = options["metavar"]
    words = {"str": "ADDRESS", "int": "N", "float": "SECONDS", "{Path,null}": "FOLDER"}
    if flag.endswith("-ratio"):
        words["float"] = "RATIO"
    options["metavar"] = words.get(kind, kind if kind.startswith("{") else "NAME=FOLDER")
    options["help"] = re.sub(r" \(default: (\(\)|null)?\)$", "", options["help"])
    parser.add_argument(flag, **options)


def _serve(settings: SettingsSource, parsed: argparse.Namespace) -> int:
    """0 once all that was accepted is done, 1 if some of it was cut off."""
    check_environment(os.environ)
    source = settings(parsed_args=parsed)
    try:
        loaded = Settings(_cli_settings_source=source)  # type: ignore[call-arg]
    except ValidationError as error:
        return _fail(_setting_problem(error))
    configure_logs(loaded.log_format)
    try:
        return 0 if asyncio.run(serve(loaded)) else 1
    except StartError as error:
        log.error("can't start", reason=str(error))
        return 1
    except DeviceLost as error:
        log.error("device lost", reason=str(error), cause=str(error.__cause__))
        return 1


def _setting_problem(error: ValidationError) -> str:
    """What is wrong with a setting, by the names that it has on the command line and outside."""
    problem = first_problem(error)
    for name in Settings.model_fields:
        flag = f"--{name.replace('_', '-')}"
        problem = re.sub(rf"^{name}(?=[:.])", f"{flag} (BILSTM_{name.upper()})", problem)
        problem = re.sub(rf"(?<!-)\b{name}(?= \()", flag, problem)
    return problem


def _add_import(commands: Commands) -> None:
    parser = commands.add_parser(
        "import",
        help="turn a checkpoint into a model folder",
        description="Turn a state_dict of nn.LSTM, with nn.Linear and nn.Embedding if it has "
        "them, into a model folder. All sizes are read off the tensors; what the head reads is not "
        "in them, and must be said.",
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


def _import(parsed: argparse.Namespace) -> None:
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as told:
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
    for warning in told:
        print(f"bilstm-server: {one_line(str(warning.message))}", file=sys.stderr)
    _say(f"{parsed.out}: {config.model_dump_json()}")
    source = shlex.quote(f"{parsed.out.resolve().name}={parsed.out}")
    _say(f"serve it with: bilstm-server serve --model {source}")


def _add_compile(commands: Commands) -> None:
    parser = commands.add_parser(
        "compile",
        help="compile the CPU kernel",
        description="Compile the CPU kernel for this machine, with $CXX, c++, g++ or clang++. The "
        "server itself never compiles.",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="for every instruction set, so that it runs wherever an image of it does",
    )


def _compile(parsed: argparse.Namespace) -> None:
    try:
        libraries, problems = _compile_all() if parsed.all else _compile_one()
    except BuildError as error:
        raise StartError(f"the CPU kernel: {error}") from error
    for name, problem in problems.items():
        print(f"bilstm-server: the CPU kernel for {name}: {problem}", file=sys.stderr)
    for library in libraries:
        _say(str(library))


def _compile_one() -> tuple[list[Path], dict[str, Exception]]:
    library, problems = compile_fastest()
    return [library], problems


def _compile_all() -> tuple[list[Path], dict[str, Exception]]:
    """Those that the compiler knows. Raises `BuildError` if it is none."""
    libraries: list[Path] = []
    problems: dict[str, Exception] = {}
    for variant in VARIANTS:
        try:
            libraries.append(build(variant))
        except BuildError as error:
            problems[variant.name] = error
    if not libraries:
        raise next(iter(problems.values()))
    return libraries, problems


def _add_lookahead(commands: Commands) -> None:
    parser = commands.add_parser(
        "lookahead",
        help="measure how exact live states are",
        description="Encode sample sequences whole and live, block by block, and print how far the "
        "live states are from the exact ones for each number of steps to look ahead.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help=".npy or .npz of sequences")
    add("--model", type=Path, required=True, metavar="FOLDER", help="the model's folder")
    add("--block-steps", type=_steps, default=64, metavar="N", help="of a block")
    add(
        "--lookahead-steps",
        type=_lookaheads,
        default="0,4,8,16,32,64",
        metavar="N,N,…",
        help="of a block's context",
    )
    for name in ("device", "dtype", "kernel"):
        setting = Settings.model_fields[name]
        add(
            f"--{name}",
            choices=get_args(setting.annotation),
            default=setting.default,
            help=setting.description,
        )


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number of steps, at least 1, got {text!r}")
    return int(text)


def _lookaheads(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be numbers of steps, N,N,…, got {text!r}")
    return [int(part) for part in text.split(",")]


def _lookahead(parsed: argparse.Namespace) -> None:
    encoder = lookahead.load_encoder(parsed.model, parsed.device, parsed.dtype, parsed.kernel)
    sequences = lookahead.read_sequences(parsed.files, encoder.config)
    _say(lookahead.table(encoder, sequences, parsed.block_steps, parsed.lookahead_steps))


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        raise StartError(f"can't write to standard output: {error.strerror}") from error


def _fail(reason: str) -> int:
    print(f"bilstm-server: {reason}", file=sys.stderr)
    return 1
