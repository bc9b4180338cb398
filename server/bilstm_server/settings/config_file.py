"""Where settings come from: flags, then the environment, then a file, then defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from ..errors import StartError
from ..quoting import first_problem, quoted
from .settings import PREFIX, Settings

CONFIG_VARIABLE = f"{PREFIX}CONFIG"


def load_settings(flags: Mapping[str, Any], config: str) -> Settings:
    """The settings that are in effect. `flags` has the values of those that are given, by the names
    of the settings; `config` is the path of a TOML file, or empty.

    Raises `StartError` for a file that can't be used or has a bad value, and `ValidationError` for
    a bad value from elsewhere.
    """
    values = read_config(Path(config)) if config else {}
    above: set[str] = set()  # settings that a flag or a variable has

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            above.update(flags, env_settings())
            file = InitSettingsSource(settings_cls, init_kwargs=dict(values))
            return init_settings, env_settings, file

    try:
        sourced = Sourced(**flags)
    except ValidationError as error:
        name = next(iter(error.errors()[0]["loc"]), None)
        if name in values and name not in above:
            raise StartError(f"--config {config}: {first_problem(error)}") from None
        raise
    return Settings.model_construct(sourced.model_fields_set, **dict(sourced))


def read_config(path: Path) -> Mapping[str, Any]:
    """The settings that a TOML file has, by name. Raises `StartError`."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StartError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise StartError(f"--config {path}: {error}") from error
    for name, value in values.items():
        if problem := _problem(name, value):
            raise StartError(f"--config {path}: {problem}")
    return values


def _problem(name: str, value: object) -> str:
    """What is wrong with a setting before its value is looked at; empty if nothing is."""
    if isinstance(value, dict):
        return f"{quoted(name)} is a table, and settings stand in none"
    if name not in Settings.model_fields:
        nearest = get_close_matches(name, Settings.model_fields, n=1, cutoff=0)
        return f"{quoted(name)} is no setting; nearest: {nearest[0]}"
    is_switch = Settings.model_fields[name].annotation is bool
    if isinstance(value, bool) and not is_switch:  # which Python would take for 0 or 1
        return f"{name}: must not be true or false, got {str(value).lower()}"
    if is_switch and not isinstance(value, bool):
        return f"{name}: must be true or false, without quotes, got {quoted(str(value))}"
    return ""
