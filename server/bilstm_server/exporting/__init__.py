"""Exporting: a live torch module, recorded and converted to a model folder.

It runs the owner's code, on the owner's machine; nothing here is part of serving.
"""

from __future__ import annotations

from .converting import Converted, convert
from .refusals import ExportError
from .saving import export

__all__ = ["Converted", "ExportError", "convert", "export"]
