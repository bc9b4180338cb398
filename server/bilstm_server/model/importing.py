"""From a `.pt` or `.safetensors` checkpoint to a model folder, all sizes read off the tensors.

Owns what the prefixes mean, and the words for a checkpoint that can't be served: they name
tensors as the user's own file does. Every such file raises a one-line `ModelError`.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from ..errors import ModelError, first_problem
from .checkpoint import CONFIG, write_folder
from .config import EmbeddingConfig, HeadConfig, ModelConfig, Pooling
from .encoder import SequenceEncoder
from .weights import check_tensors, read_tensors, some

# Rows per column of weight_hh in recurrences whose weights have the LSTM's names. An LSTM has 4,
# or more with a projection.
_OTHER_GATES = {3: "a GRU's (3 gates)", 1: "a plain RNN's (1 gate)"}


def import_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    lstm_prefix: str = "lstm.",
    head_prefix: str = "fc.",
    embedding_prefix: str = "embedding.",
    pooling: Pooling = Pooling.LAST,
    labels: tuple[str, ...] = (),
    version: int = 1,
    ignore_unused: bool = False,
    overwrite: bool = False,
) -> ModelConfig:
    """Turn a state_dict file into the model folder `folder`, all sizes read off its tensors.

    The prefixes say where in the checkpoint nn.LSTM's, nn.Linear's and nn.Embedding's
    parameters are; head and embedding may be absent. Tensors outside of the three are refused
    unless `ignore_unused`: a model without them would give other numbers. A folder that holds a
    model already is refused unless `overwrite`.
    """
    if version < 1:
        raise ModelError(f"--model-version must be 1 or more, got {version}")
    if (folder / CONFIG).exists() and not overwrite:
        raise ModelError(
            f"{folder}: holds a model already; choose another --out or pass --overwrite"
        )
    prefixes = {"lstm": lstm_prefix, "head": head_prefix, "embedding": embedding_prefix}
    content = _Checkpoint(checkpoint, prefixes)
    content.check_is_lstm()
    if not ignore_unused:
        content.check_all_used()
    config = content.config(pooling, labels, version)
    write_folder(config, content.tensors(SequenceEncoder(config, device="meta")), folder)
    return config


class _Checkpoint:
    """A file's tensors, by the part of the model that they belong to, and their names in it.

    `head` and `weight` stand for `fc.weight` where the head's prefix is `fc.`; errors say that.
    """

    def __init__(self, path: Path, prefixes: dict[str, str]):
        self._path = path
        self._prefixes = prefixes
        self._tensors = read_tensors(path)
        self._parts: dict[str, dict[str, Tensor]] = {part: {} for part in prefixes}
        self._unused: list[str] = []
        for key, tensor in self._tensors.items():
            parts = [part for part, prefix in prefixes.items() if key.startswith(prefix)]
            if not parts:
                self._unused.append(key)
                continue
            # The longest prefix: the LSTM's may be empty, or the beginning of the head's.
            part = max(parts, key=lambda part: len(prefixes[part]))
            self._parts[part][key.removeprefix(prefixes[part])] = tensor

    def check_is_lstm(self) -> None:
        self._matrix("lstm", "weight_ih_l0")
        rows, columns = self._matrix("lstm", "weight_hh_l0")
        for gates, whose in _OTHER_GATES.items():
            if columns and rows == gates * columns:
                key = self._key("lstm", "weight_hh_l0")
                raise self._problem(f"{key} is {[rows, columns]}: {whose}, not an LSTM's (4)")

    def check_all_used(self) -> None:
        if self._unused:
            raise self._problem(
                f"{len(self._unused)} more tensors would be left out, and the results might "
                f"differ: {some(self._unused)} (name them with --head-prefix or "
                "--embedding-prefix, or pass --ignore-unused)"
            )

    def config(self, pooling: Pooling, labels: tuple[str, ...], version: int) -> ModelConfig:
        """All sizes, read off the tensors' shapes."""
        lstm, head, embedding = (self._parts[part] for part in ("lstm", "head", "embedding"))
        rows, input_size = self._matrix("lstm", "weight_ih_l0")
        try:
            return ModelConfig(
                version=version,
                input_size=input_size,
                hidden_size=rows // 4,
                num_layers=sum(re.fullmatch(r"weight_ih_l\d+", name) is not None for name in lstm),
                bias="bias_ih_l0" in lstm,
                bidirectional="weight_ih_l0_reverse" in lstm,
                proj_size=self._matrix("lstm", "weight_hr_l0")[0] if "weight_hr_l0" in lstm else 0,
                embedding=EmbeddingConfig(num_embeddings=self._matrix("embedding", "weight")[0])
                if embedding
                else None,
                head=HeadConfig(
                    num_classes=self._matrix("head", "weight")[0],
                    pooling=pooling,
                    bias="bias" in head,
                )
                if head
                else None,
                labels=labels,
            )
        except ValidationError as error:
            raise self._problem(first_problem(error)) from error

    def tensors(self, encoder: SequenceEncoder) -> dict[str, Tensor]:
        """The tensors that `encoder` needs, under its names. All others of its parts, and other
        shapes, are refused.
        """
        keys = {name: self._key(*name.split(".", 1)) for name in encoder.state_dict()}
        used = {
            self._key(part, name): tensor
            for part, tensors in self._parts.items()
            for name, tensor in tensors.items()
        }
        expected = {keys[name]: tensor for name, tensor in encoder.state_dict().items()}
        check_tensors(used, expected, self._path)
        return {name: used[key] for name, key in keys.items()}

    def _matrix(self, part: str, name: str) -> tuple[int, int]:
        """A weight's rows and columns."""
        key = self._key(part, name)
        if name not in self._parts[part]:
            raise self._problem(
                f"no {key} in it, so no {part} under the prefix {self._prefixes[part]!r} "
                f"(--{part}-prefix); {self._hint(part, name)}"
            )
        shape = self._parts[part][name].shape
        if len(shape) != 2:
            raise self._problem(f"{key} is {list(shape)}, expected a matrix")
        return shape[0], shape[1]

    def _hint(self, part: str, name: str) -> str:
        """The prefixes under which the weight is, or else what there is."""
        own = self._prefixes[part]
        found = [key.removesuffix(name) for key in self._tensors if key.endswith(name)]
        if part != "lstm":  # any layer has a `weight`
            found = [prefix for prefix in found if prefix == f"{own}."]
        if found:
            return f"did you mean {' or '.join(map(repr, found))}?"
        near = [key for key in self._tensors if key.startswith(own)]
        return f"it has: {some(near or self._tensors)}"

    def _key(self, part: str, name: str) -> str:
        return self._prefixes[part] + name

    def _problem(self, reason: str) -> ModelError:
        return ModelError(f"{self._path}: {reason}")
