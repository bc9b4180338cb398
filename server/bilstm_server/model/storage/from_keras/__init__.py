"""Models as Keras saves them: their graph and weights, in this project's words."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from ....errors import ModelError
from ..drafts import Draft
from .files import open_file
from .loose import read_state_dict
from .model import Model
from .weights import open_weights


def read_keras(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Read a `.keras` file, or an `.h5` one: the config of its model, in the second format, and its
    tensors by `layer.parameter`. A file of weights alone has no config (None), and its tensors are
    named as in a state_dict.

    What the model's numbers depend on beyond its sequences is told by `UserWarning`s. Raises
    `ModelError` for what can't be served; the file's code is never executed.
    """
    draft = Draft()
    with open_file(path) as (entry, file):
        try:
            if entry is None:
                return None, read_state_dict(file)
            results = Model(entry, open_weights(file), draft).convert()
            config, tensors = draft.finish(results)
        except ValueError as error:
            raise ModelError(f"{path}: {error}") from error
    for note in draft.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return config, tensors
