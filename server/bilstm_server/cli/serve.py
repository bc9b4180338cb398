"""`bilstm-server serve`: settings from flags and the environment, and the server until a signal."""

from __future__ import annotations

import argparse
import asyncio
import re
from functools import partial
from typing import Any

import structlog
from pydantic_settings import CliSettingsSource

from ..errors import DeviceLost, EngineHung, StartError
from ..lifecycle import serve
from ..logs import configure_logs
from ..process.ending import FAILED_CODE
from ..settings import Settings
from .commands import Commands
from .setting_flags import add_config, settings_in_effect

log = structlog.get_logger()

_PAIRS = {
    "--model": "NAME=FOLDER",
    "--caller-share": "NAME=WEIGHT",
    "--caller-priority": "NAME=PRIORITY",
}

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
    add_config(parser)
    source: SettingsSource = CliSettingsSource(
        Settings, root_parser=parser, cli_kebab_case=True, add_argument_method=_add_setting
    )
    parser.set_defaults(run=partial(_run, source))


def _add_setting(parser: argparse.ArgumentParser, flag: str, **options: Any) -> None:
    """Add a flag, with words for its value in place of its Python type."""
    kind = options["metavar"]
    words = {"str": "ADDRESS", "int": "N", "float": "SECONDS", "{Path,null}": "FILE"}
    if flag.endswith("-ratio"):
        words["float"] = "RATIO"
    if flag.endswith("-bytes"):
        words["int"] = "BYTES"
    if flag.endswith("-folder"):
        words["{Path,null}"] = "FOLDER"
    if flag.endswith("-header"):
        words["str"] = "NAME"
    if kind == "bool":  # a switch, which may have its value behind =
        words["bool"] = "true|false"
        options |= {"nargs": "?", "const": "true"}
        options["help"] = options["help"].replace("(default: False)", "(default: false)")
    options["metavar"] = _PAIRS.get(flag) or words.get(kind, kind)
    options["help"] = re.sub(r" \(default: (\(\)|null)?\)$", "", options["help"])
    parser.add_argument(flag, **options)


def _run(source: SettingsSource, parsed: argparse.Namespace) -> int:
    """0 once all that was accepted is done, 1 if some of it was cut off, 3 if the engine or its
    device failed."""
    loaded = settings_in_effect(source(parsed_args=parsed)(), parsed)
    configure_logs(loaded.log_format)
    try:
        return 0 if asyncio.run(serve(loaded)) else 1
    except StartError as error:
        log.error("can't start", reason=str(error))
        return 1
    except DeviceLost as error:
        log.error("device lost", reason=str(error), cause=str(error.__cause__))
        return FAILED_CODE
    except EngineHung:  # the watchdog has said so
        return FAILED_CODE
