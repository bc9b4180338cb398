"""What torch's operations become: one file for a few alike. Each registers what it knows."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .leaves import leaf_of
from .rewritten import rewrite_of
from .unknown import unknown

__all__ = ["leaf_of", "rewrite_of", "unknown"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
