"""The BiLSTM encoding service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporting import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the server itself needs no exporting."""
    if name == "export":
        from .exporting import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
