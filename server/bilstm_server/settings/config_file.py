"""Where settings come from: flags, then the environment, then a file, then defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from ..errors import StartError
from ..quoting import quoted
from .settings import PREFIX, Settings

CONFIG_VARIABLE = f"{PREFIX}CONFIG"


def load_settings(flags: CliSettingsSource[Any], config: str) -> Settings:
    """The settings that are in effect. `config` is the path of a TOML file, or empty.

    Raises `StartError` for a file that can't be used, and `ValidationError` for a bad value.
    """
    values = read_config(Path(config)) if config else {}

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
            return env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(values))

    sourced = Sourced(_cli_settings_source=flags)  # type: ignore[call-arg]
    return Settings.model_construct(sourced.model_fields_set, **dict(sourced))


def read_config(path: Path) -> Mapping[str, Any]:
    """The settings that a TOML file has, by name. Raises `StartError`."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StartError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise StartError(f"--config {path}: {error}") from error
    for name in values:
        if name not in Settings.model_fields:
            nearest = get_close_matches(name, Settings.model_fields, n=1, cutoff=0)
            raise StartError(
                f"--config {path}: {quoted(name)} is no setting; nearest: {nearest[0]}"
            )
    return values
