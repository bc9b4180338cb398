"""Models as ONNX files have them: their graph and weights, in this project's words."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from ....errors import ModelError
from ....quoting import one_line
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
        draft, outputs = read_graph(_graph(model, path))
        return draft.finish(outputs)
    except ValueError as error:
        raise ModelError(f"{path}: {one_line(str(error))}") from error


def _graph(model: ModelProto, path: Path) -> Graph:
    try:
        return Graph(model, path.parent)
    except (AttributeError, LookupError, TypeError) as error:
        # Where a field is damaged, protobuf gives it as it is: a name that is bytes …
        raise ModelError(f"{path}: is a damaged ONNX model; export it again") from error
