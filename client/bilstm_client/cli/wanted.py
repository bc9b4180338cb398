"""What `bilstm encode` wants of each sequence: to be written, and to be shown on a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from ..client import Client
from ..errors import EncoderError
from ..types import OutputName
from .report import is_on_terminal
from .scores import class_names


@dataclass(frozen=True, slots=True)
class Wanted:
    """The outputs, and the model that computes them."""

    written: Sequence[OutputName]
    model: str
    version: str
    classes: Sequence[str]  # names of the model's; empty where none are shown

    @classmethod
    def of(cls, client: Client, parsed: argparse.Namespace) -> Self:
        """What was typed, and the model's classes where a person reads the report."""
        classes: Sequence[str] = ()
        if is_on_terminal():
            with suppress(EncoderError):  # the call that encodes says it, or waits for the server
                if client.is_ready():  # asked once: that call alone waits
                    model = client.get_model(parsed.model, parsed.model_version)
                    classes = class_names(model.labels, model.num_classes)
        return cls(parsed.outputs, parsed.model, parsed.model_version, classes)

    @property
    def options(self) -> dict[str, Any]:
        """How the client is asked for it; the best class is that of the highest logit."""
        outputs = list(self.written)
        if self.classes and "logits" not in outputs:
            outputs.append("logits")
        return {"outputs": outputs, "model": self.model, "version": self.version}

    def ask_labels(self, client: Client) -> Callable[[], Sequence[str]]:
        """How the model's labels are asked for, once there are results."""
        return lambda: client.get_model(self.model, self.version).labels
