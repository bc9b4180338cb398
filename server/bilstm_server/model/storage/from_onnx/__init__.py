"""Models as ONNX files have them: their graph and weights, in this project's words."""

from __future__ import annotations

from pathlib import Path

from ....errors import ModelError
from ..drafts import ForeignModel
from .files import read_model
from .graph import Graph
from .readings import read_graph


def read_onnx(path: Path) -> ForeignModel:
    """Read an `.onnx` file: its model's config, and tensors by `layer.parameter`.

    Raises `ModelError` for what can't be served; nothing in the file is executed.
    """
    model = read_model(path)
    try:
        draft, outputs = read_graph(Graph(model, path.parent))
        return draft.finish(outputs)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
