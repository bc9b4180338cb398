"""`bilstm-server serve`: settings from flags and the environment, and the server until a signal."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Mapping
from functools import partial
from inspect import getdoc
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
_Section = argparse._ArgumentGroup  # what `add_argument_group` returns


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "serve",
        help="serve models until SIGTERM",
        usage="%(prog)s [-h] [--FLAG VALUE ...]",
        description="Serve models until SIGTERM, then drain. Every flag can also be set by an "
        "environment variable, --max-batch-tokens by BILSTM_MAX_BATCH_TOKENS, or in the file of "
        "--config, as max_batch_tokens. A flag wins over a variable, and that over the file.",
    )
    add_config(parser)
    source: SettingsSource = CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_kebab_case=True,
        add_argument_method=partial(_add_setting, _sections(parser)),
    )
    parser.set_defaults(run=partial(_run, source))


def _sections(parser: argparse.ArgumentParser) -> dict[str, _Section]:
    """The section of --help that each flag stands in: one for each group of settings, headed by
    what the group says of itself."""
    sections: dict[str, _Section] = {}
    for group in reversed(Settings.__mro__):
        names = Settings.model_fields.keys() & vars(group).get("__annotations__", {}).keys()
        if names:
            heading = (getdoc(group) or "").splitlines()[0].removesuffix(".")
            section = parser.add_argument_group(heading)
            sections |= {f"--{name.replace('_', '-')}": section for name in names}
    return sections


def _add_setting(
    sections: Mapping[str, _Section], _: argparse.ArgumentParser, flag: str, **options: Any
) -> None:
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
        options["help"] = options["help"].replace("default: False", "default: false")
    options["metavar"] = _PAIRS.get(flag) or words.get(kind, kind)
    options["help"] = re.sub(r" \(default: (\(\)|null)?\)$", "", options["help"])
    sections[flag].add_argument(flag, **options)


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
