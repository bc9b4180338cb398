"""What the commands of `bilstm-server` have in common: arguments that several of them take."""

from __future__ import annotations

import argparse
from typing import TypeAlias, get_args

from ..settings import Settings

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that says the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, "", False)
        return super()._get_help_string(action) if has_default else action.help


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add settings of the server that are a choice, with its own words for them."""
    for name in names:
        setting = Settings.model_fields[name]
        parser.add_argument(
            f"--{name}",
            choices=get_args(setting.annotation),
            default=setting.default,
            help=setting.description,
        )


def positive(text: str) -> int:
    """A whole number of at least 1, as argparse's `type`."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number, at least 1, got {text!r}")
    return int(text)
