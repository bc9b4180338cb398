"""Models as Keras saves them: their graph and weights, in this project's words."""

from __future__ import annotations

from pathlib import Path

from ....errors import ModelError
from ....quoting import one_line
from ..drafts import Draft, ForeignModel
from .files import open_file
from .loose import read_state_dict
from .model import Model
from .weights import open_weights


def read_keras(path: Path) -> ForeignModel:
    """Read a `.keras` or `.h5` file: its model's config, and tensors by `layer.parameter`.

    A file of weights alone has no config, and its tensors are named as in a state_dict.

    Raises `ModelError` for what can't be served; nothing in the file is executed.
    """
    draft = Draft()
    with open_file(path) as (entry, file):
        try:
            if entry is None:
                return ForeignModel(None, read_state_dict(file), ())
            return draft.finish(Model(entry, open_weights(file), draft).convert())
        except ValueError as error:
            raise ModelError(f"{path}: {one_line(str(error))}") from error
