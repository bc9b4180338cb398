"""The BiLSTM encoding service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporting import ExportError, export

__all__ = ["ExportError", "export"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the server itself needs no exporting."""
    if name in __all__:
        from . import exporting

        return getattr(exporting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
