"""`StepBytes`: what a step of a stream's sequence takes in the server's memory."""

from __future__ import annotations

import numpy as np

from ....model.config import Output
from ....serving.registry import ServedModel
from .requests import StreamOptions


class StepBytes:
    def __init__(self, model: ServedModel, options: StreamOptions):
        config = model.config
        self._width = 1 if config.embedding else config.input_size
        encoding = config.encoding_size * model.itemsize
        # Each layer's output takes the place of what the layer before it has read.
        layers = config.num_layers if Output.STATES in options.outputs else config.num_layers - 1
        self._outputs = min(layers, 2) * encoding
        self._first_output = min(layers, 1) * encoding

    def taken(self, dtype: np.dtype[np.generic]) -> int:
        """Of the step itself."""
        return self._width * dtype.itemsize

    def held(self, dtype: np.dtype[np.generic]) -> int:
        """At the most, from its arrival until its result has been sent."""
        return max(self.taken(dtype) + self._first_output, self._outputs)
