"""One case for each form of each layer type but the LSTM, and torch's own computation of it."""

from . import functions, rows, steps  # noqa: F401 - each adds its cases
from .case import CASES, Case

__all__ = ["CASES", "Case"]
