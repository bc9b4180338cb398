"""The types of layers that a graph is made of: one small file each, or one for a few alike."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from .interface import LayerConfig


def _types(of: type[Any]) -> Iterator[type[LayerConfig]]:
    for subclass in of.__subclasses__():
        if "type" in subclass.model_fields:
            yield subclass
        yield from _types(subclass)


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

LAYER_TYPES: tuple[type[LayerConfig], ...] = tuple(_types(LayerConfig))

if TYPE_CHECKING:
    AnyLayer = LayerConfig
else:
    AnyLayer = Annotated[Union[LAYER_TYPES], Field(discriminator="type")]  # noqa: UP007
