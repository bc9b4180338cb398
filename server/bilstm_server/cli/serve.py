"""`bilstm-server serve`: settings from flags and the environment, and the server until a signal."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from ..errors import DeviceLost, StartError
from ..lifecycle import serve
from ..logs import configure_logs
from ..quoting import first_problem
from ..settings import CONFIG_VARIABLE, Settings, check_environment, load_settings
from .commands import Commands

log = structlog.get_logger()

SettingsSource = CliSettingsSource[argparse.ArgumentParser]


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "serve",
        help="serve models until SIGTERM",
        description="Serve models until SIGTERM, then drain. Every flag can also be set by an "
        "environment variable, --max-batch-tokens by BILSTM_MAX_BATCH_TOKENS, or in the file of "
        "--config, as max_batch_tokens. A flag wins over a variable, and that over the file.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"TOML file of settings, by the names of the flags with _ for - ({CONFIG_VARIABLE})",
    )
    source: SettingsSource = CliSettingsSource(
        Settings, root_parser=parser, cli_kebab_case=True, add_argument_method=_add_setting
    )
    parser.set_defaults(run=partial(_run, source))


def _add_setting(parser: argparse.ArgumentParser, flag: str, **options: Any) -> None:
    """Add a flag, with words for its value in place of its Python type."""
    kind = options["metavar"]
    words = {"str": "ADDRESS", "int": "N", "float": "SECONDS", "{Path,null}": "FOLDER"}
    if flag.endswith("-ratio"):
        words["float"] = "RATIO"
    if flag.endswith("-bytes"):
        words["int"] = "BYTES"
    options["metavar"] = words.get(kind, kind if kind.startswith("{") else "NAME=FOLDER")
    options["help"] = re.sub(r" \(default: (\(\)|null)?\)$", "", options["help"])
    parser.add_argument(flag, **options)


def _run(settings: SettingsSource, parsed: argparse.Namespace) -> int:
    """0 once all that was accepted is done, 1 if some of it was cut off."""
    check_environment(os.environ)
    source = settings(parsed_args=parsed)
    try:
        loaded = load_settings(source, parsed.config or os.environ.get(CONFIG_VARIABLE, ""))
    except ValidationError as error:
        raise StartError(_setting_problem(error)) from None
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
