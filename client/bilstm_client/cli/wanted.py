"""What `bilstm encode` wants of each sequence: to be written, and to be shown on a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from ..client import Client
from ..errors import EncoderError
from ..types import Model
from .labels import LabelTable
from .report import Shown, is_on_terminal
from .result_tables import ResultTable
from .scores import ScoreTable


@dataclass(frozen=True, slots=True)
class Wanted:
    """The outputs, and the model that computes them."""

    written: Sequence[str]
    model: str
    version: str
    shown: Shown
    inputs: Sequence[str]  # of the model, if it has several

    @classmethod
    def of(cls, client: Client, parsed: argparse.Namespace, *, has_archives: bool) -> Self:
        """What was typed, and what has to be known of the model: its inputs where there are .npz
        files, which may hold them, and its classes where a person reads the report."""
        model: Model | None = None
        if has_archives or is_on_terminal():
            with suppress(EncoderError):  # the call that encodes says it, or waits for the server
                if client.is_ready():  # asked once: that call alone waits
                    model = client.get_model(parsed.model, parsed.model_version)
        inputs = [given.name for given in model.inputs] if model else []
        shown = Shown.of(model if is_on_terminal() else None)
        several = inputs if len(inputs) > 1 else ()
        return cls(parsed.outputs, parsed.model, parsed.model_version, shown, several)

    @property
    def options(self) -> dict[str, Any]:
        """How the client is asked for it."""
        outputs = list(
            dict.fromkeys([*self.written, *([self.shown.output] if self.shown.output else [])])
        )
        return {"outputs": outputs, "model": self.model, "version": self.version}

    def table(self, client: Client, parsed: argparse.Namespace) -> ResultTable:
        """The table of the one output that is written: of scores, or of labels."""
        (output,) = self.written
        if output != "logits":
            return LabelTable(parsed.out, output)
        return ScoreTable(parsed.out, self._ask_labels(client))

    def _ask_labels(self, client: Client) -> Callable[[], Sequence[str]]:
        """How the model's labels are asked for, once there are results."""
        return lambda: client.get_model(self.model, self.version).labels
