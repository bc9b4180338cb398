"""Models as ONNX files have them: their graph and weights, in this project's words."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from ....errors import ModelError
from .files import read_model
from .graph import Graph
from .readings import read_graph


def read_onnx(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an `.onnx` file: the config of its model, in the second format, and its tensors by
    `layer.parameter`.

    What the model's numbers depend on beyond its sequences is told by `UserWarning`s. Raises
    `ModelError` for what can't be served; nothing in the file is executed.
    """
    model = read_model(path)
    try:
        draft, outputs = read_graph(Graph(model, path.parent))
        config, tensors = draft.finish(outputs)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    for note in draft.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return config, tensors
