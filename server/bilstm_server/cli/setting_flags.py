"""Settings as commands of `bilstm-server` have them: flags, variables and the file of --config."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from ..errors import StartError
from ..quoting import first_problem
from ..settings import CONFIG_VARIABLE, Settings, check_environment, load_settings


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the file that has settings."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"TOML file of settings, by the names of the flags with _ for - ({CONFIG_VARIABLE})",
    )


def add_given(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add flags of some settings, with the settings' own words for them. One that is not given is
    not in what is parsed, so that a variable or the file may say it."""
    for name in names:
        setting = Settings.model_fields[name]
        choices = get_args(setting.annotation)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            choices=choices or None,
            metavar=None if choices else "N",
            default=argparse.SUPPRESS,
            help=f"{setting.description} (default: {setting.default})",
        )


def settings_in_effect(flags: Mapping[str, Any], parsed: argparse.Namespace) -> Settings:
    """The settings of a command: the `flags` that are given, by their settings' names, the
    environment's variables, and the file of --config. Raises `StartError`."""
    check_environment(os.environ)
    config = getattr(parsed, "config", None) or os.environ.get(CONFIG_VARIABLE, "")
    try:
        return load_settings(flags, config)
    except ValidationError as error:
        raise StartError(_setting_problem(error)) from None


def _setting_problem(error: ValidationError) -> str:
    """What is wrong with a setting, by the names that it has on the command line and outside."""
    problem = first_problem(error)
    for name in Settings.model_fields:
        flag = f"--{name.replace('_', '-')}"
        problem = re.sub(rf"^{name}(?=[:.])", f"{flag} (BILSTM_{name.upper()})", problem)
        problem = re.sub(rf"(?<!-)\b{name}(?= \()", flag, problem)
    return problem
