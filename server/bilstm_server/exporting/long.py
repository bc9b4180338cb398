"""One long sequence: modules that cut their input, or branch by its length, do so late."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..model.graph import SequenceEncoder
from ..model.kernels import RaggedBatch
from .converting import Converted
from .proof import distance
from .refusals import ExportError

STEPS = 2100  # beyond the lengths at which modules cut: 512, 1000, 1024, 2000, 2048

# Loose: what rounding does in so many steps is not what is asked here.
_TOLERANCE = 1e-3
_WRONG_IDS = 0.02


def check_long(converted: Converted) -> tuple[str, ...]:
    """Compare the outputs of one long sequence, and say what the owner should know.

    Raises `ExportError` if the module gives something else for it.
    """
    inputs = converted.sample(STEPS, seed=STEPS)
    try:
        expected = converted.run(inputs)
    except ExportError as error:  # of the owner's code
        said = str(error)
        return (f"{said[0].upper()}{said[1:]}; what is served takes sequences of any length.",)
    given = _served(converted, inputs)
    for name, want in expected.items():
        got = given[name].reshape(-1, *want.shape[1:] if want.dim() else ())
        got = got.reshape(want.shape) if got.numel() == want.numel() else got
        got = got[got >= 0] if converted.config.output_values[name].sparse else got
        if got.shape != want.shape or _are_apart(got, want):
            raise ExportError(
                f"{name} of {STEPS} steps would not be what the module gives, though it is for the "
                "lengths that were recorded: the module cuts long sequences, or computes otherwise "
                "for them; take that out of its forward"
            )
    return ()


def _served(converted: Converted, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    config = converted.config
    encoder = SequenceEncoder(config)
    encoder.load_state_dict(converted.tensors)
    values = [
        inputs[name] if its.value.ids else inputs[name].float()
        for name, its in config.inputs.items()
    ]
    with torch.no_grad():
        outputs = tuple(config.outputs)
        given: dict[str, Tensor] = encoder.eval()(
            values, RaggedBatch(np.array([STEPS])), None, outputs
        )
    return given


def _are_apart(got: Tensor, want: Tensor) -> bool:
    if not want.is_floating_point():
        return float((got != want).float().mean()) > _WRONG_IDS
    return not distance(got.numpy(), want.numpy()) <= _TOLERANCE
