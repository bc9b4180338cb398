"""From a `.pt` or `.safetensors` checkpoint to a model folder, all sizes read off the tensors.

Owns what the prefixes mean, and the words for a checkpoint that can't be served: they name
tensors as the user's own file does. Every such file raises a one-line `ModelError`.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from ...errors import ModelError
from ...quoting import first_problem
from ..config import ModelConfig
from ..graph import SequenceEncoder
from .first_format import EmbeddingConfig, HeadConfig, PlainConfig, Pooling
from .folder import CONFIG, write_folder
from .leftovers import computing, perhaps_before
from .weights import check_tensors, read_tensors, some

_FIRST = "weight_ih_l0"

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
    pooling: Pooling | None = None,
    labels: tuple[str, ...] = (),
    version: int = 1,
    ignore_unused: bool = False,
    overwrite: bool = False,
) -> ModelConfig:
    """Turn a state_dict file into the model folder `folder`, all sizes read off its tensors.

    The prefixes say where in the checkpoint nn.LSTM's, nn.Linear's and nn.Embedding's
    parameters are; head and embedding may be absent. What the head reads, no tensor tells: a head
    without `pooling` is refused. So are tensors outside of the three: a model without them would
    give other numbers. With `ignore_unused` they are left out, unless they may stand before the
    LSTM; and the head too, with a `UserWarning`, since they may stand between the two, or behind.
    A folder that holds a model already is refused unless `overwrite`.
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
    if ignore_unused:
        content.leave_out()
    else:
        content.check_all_used()
    config = content.config(pooling, labels, version).graph()
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
        self._unused: dict[str, Tensor] = {}
        self._head_is_left_out = False
        for key, tensor in self._tensors.items():
            parts = [part for part, prefix in prefixes.items() if key.startswith(prefix)]
            if not parts:
                self._unused[key] = tensor
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
        several = [key.removesuffix(_FIRST) for key in self._tensors if key.endswith(_FIRST)]
        if self._unused and len(several) > 1:
            raise self._problem(
                f"holds several recurrences ({some(map(repr, several))}), and one is served: take "
                "the others out of the file if it does not read them (--lstm-prefix names it)"
            )
        if self._unused:
            raise self._problem(
                f"{len(self._unused)} more tensors would be left out, and the results might "
                f"differ: {some(self._unused)} (name them with --head-prefix or "
                "--embedding-prefix, or pass --ignore-unused: there are no logits then)"
            )

    def leave_out(self) -> None:
        """Refuse tensors that may stand before the LSTM; beside any others there is no head."""
        body = self._body()
        head = {self._key("head", name): tensor for name, tensor in self._parts["head"].items()}
        left = self._unused | (head if self._unfit_head(body) else {})
        if before := perhaps_before(left, body):
            raise self._problem(
                f"{some(before)} may stand before the LSTM (its input is {body.input_size} wide, "
                f"its states {body.state_size}), whose results would be others without; what "
                "stands elsewhere can be taken out of the file"
            )
        others = computing(left)
        if head and others:
            warnings.warn(
                f"{self._path}: no logits: {some(others)} may stand between the LSTM and the head "
                f"({self._prefixes['head']}), or behind it; what stands elsewhere can be taken out "
                "of the file",
                stacklevel=3,
            )
            self._parts["head"] = {}
            self._head_is_left_out = True

    def config(self, pooling: Pooling | None, labels: tuple[str, ...], version: int) -> PlainConfig:
        """All sizes, read off the tensors' shapes."""
        body = self._body()
        head = self._head(pooling, body)
        try:
            return PlainConfig.model_validate(
                body.model_dump() | {"head": head, "labels": labels, "version": version}
            )
        except ValidationError as error:
            raise self._problem(first_problem(error)) from error

    def _head(self, pooling: Pooling | None, body: PlainConfig) -> HeadConfig | None:
        prefix = self._prefixes["head"]
        if not self._parts["head"]:
            if pooling is not None and not self._head_is_left_out:
                raise self._problem(f"--pooling {pooling}, but no head under the prefix {prefix!r}")
            return None
        if unfit := self._unfit_head(body):
            raise self._problem(unfit)
        if pooling is None:
            raise self._problem(
                f"no tensor tells what the head ({prefix}) reads; say it with --pooling: "
                f"{_choices(body)}"
            )
        classes, _ = self._matrix("head", "weight")
        return HeadConfig(num_classes=classes, pooling=pooling, bias="bias" in self._parts["head"])

    def _unfit_head(self, body: PlainConfig) -> str | None:
        """Why what is under the head's prefix is no single layer over the LSTM's output."""
        own = self._parts["head"]
        layers = [name for name in own if re.fullmatch(r"(.+\.)?\d+\.weight", name)]
        if "weight" not in own and len(layers) > 1:
            keys = (self._key("head", name) for name in layers)
            return f"the head has several layers ({some(keys)}), and only one nn.Linear is served"
        if not own:
            return None
        classes, width = self._matrix("head", "weight")
        if width == body.encoding_size:
            return None
        return (
            f"{self._key('head', 'weight')} is {[classes, width]}, expected "
            f"{[classes, body.encoding_size]}{_perhaps_reads(width, body)}"
        )

    def _body(self) -> PlainConfig:
        """The sizes of all but the head."""
        lstm, embedding = (self._parts[part] for part in ("lstm", "embedding"))
        rows, input_size = self._matrix("lstm", "weight_ih_l0")
        try:
            return PlainConfig(
                input_size=input_size,
                hidden_size=rows // 4,
                num_layers=sum(re.fullmatch(r"weight_ih_l\d+", name) is not None for name in lstm),
                bias="bias_ih_l0" in lstm,
                bidirectional="weight_ih_l0_reverse" in lstm,
                proj_size=self._matrix("lstm", "weight_hr_l0")[0] if "weight_hr_l0" in lstm else 0,
                embedding=EmbeddingConfig(num_embeddings=self._matrix("embedding", "weight")[0])
                if embedding
                else None,
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


def _choices(body: PlainConfig) -> str:
    """The poolings, in the words of a module with this LSTM (`batch_first`)."""
    if body.bidirectional:
        last = (
            "last (output[:, -1], of the backward direction too), "
            "final (torch.cat((h_n[-2], h_n[-1]), 1))"
        )
    else:
        last = "last (output[:, -1], which is h_n[-1])"
    return f"{last}, mean (output.mean(1)) or max (output.max(1).values)"


def _perhaps_reads(width: int, body: PlainConfig) -> str:
    """What a head of another width may read instead of one vector for each sequence."""
    if body.bidirectional and width == body.state_size:
        what = "one direction alone, or the sum of both"
    elif width == body.state_rows * body.state_size:
        what = "h_n of all layers"
    elif width in (2 * body.encoding_size, 3 * body.encoding_size):
        what = "several vectors joined"
    else:
        return ""
    return f": it may read {what}, which is not served"
