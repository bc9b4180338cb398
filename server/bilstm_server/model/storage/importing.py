"""From a checkpoint to a model folder, by the names and shapes of its tensors and what its owner
says of them.

Every checkpoint that can't be served so raises a one-line `ModelError`, which names tensors as the
user's own file does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from ...errors import ModelError
from ...quoting import first_problem
from ..config import ModelConfig
from ..graph import SequenceEncoder
from .chain.asking import find_chain
from .chain.crf_matrix import read_matrix
from .chain.graph import Graph, draw
from .chain.initial_states import read_initial_states
from .chain.links import Direction, Said
from .chain.modules import find_modules
from .chain.table import table
from .chain.written import written_chain
from .checkpoints.opening import open_checkpoint
from .folder import CONFIG, write_folder
from .foreign import is_foreign, read_foreign
from .weights import check_tensors

_UNPROVEN = (
    "not proven: no tensor tells whether something without weights stands between these layers (an "
    "activation, a sum, a scale) or behind them{norms}; --expect holds them against examples"
)
_NORMS = ", nor the eps of norms, which is taken as torch's own (1e-5)"
_UNPROVEN_FOREIGN = "not proven: --expect holds it against examples of what the file's model gives"


@dataclass(frozen=True)
class Imported:
    """A model that was read off a checkpoint, and what its owner should see of it."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]  # by the names of the graph's parameters
    notes: Sequence[str]  # how the file was read
    table: Sequence[str]  # its layers, a line for each
    unproven: str  # what remains to be proven, in words


def import_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    lstm_prefix: str | Sequence[str] = (),
    head_prefix: str | Sequence[str] = (),
    embedding_prefix: str | Sequence[str] = (),
    pooling: str | None = None,
    per_step: bool = False,
    head_activation: str | None = None,
    head: bool = True,
    embedding: bool = True,
    chain: str | None = None,
    crf: Direction | None = None,
    key: str | None = None,
    labels: Sequence[str] = (),
    version: int = 1,
    ignore_unused: bool = False,
    overwrite: bool = False,
) -> ModelConfig:
    """Turn a checkpoint into the model folder `folder`, all layers and sizes read off its tensors.

    What no tensor tells is asked for, and not guessed: the `ModelError` says what there is to
    choose from. The arguments are the flags of `bilstm-server import`, whose help describes them;
    `head=False` is `--no-head`, and `embedding=False` is `--no-embedding`. A folder that holds a
    model already is refused unless `overwrite`.
    """
    check_folder(folder, overwrite)
    said = Said(
        lstm_prefixes=_several(lstm_prefix),
        head_prefixes=_several(head_prefix),
        embedding_prefixes=_several(embedding_prefix),
        pooling=pooling,
        per_step=per_step,
        head_activation=head_activation,
        head=head,
        embedding=embedding,
        ignore_unused=ignore_unused,
        chain=chain,
        crf=crf,
    )
    imported = read_checkpoint(checkpoint, said, key=key, labels=labels, version=version)
    write_folder(imported.config, imported.tensors, folder)
    return imported.config


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise `ModelError` if the folder holds a model already, unless it may be overwritten."""
    if (folder / CONFIG).exists() and not overwrite:
        raise ModelError(
            f"{folder}: holds a model already; choose another --out or pass --overwrite"
        )


def read_checkpoint(
    checkpoint: Path,
    said: Said,
    *,
    key: str | None = None,
    labels: Sequence[str] = (),
    version: int = 1,
) -> Imported:
    """Read the model off a checkpoint, and write nothing. See `import_checkpoint`."""
    if version < 1:
        raise ModelError(f"--model-version must be 1 or more, got {version}")
    if is_foreign(checkpoint):
        if key is not None:
            raise ModelError(f"{checkpoint}: --key is for files of torch.save")
        own_config, tensors, notes = read_foreign(checkpoint)
        if own_config is not None:
            return _as_the_file_says(
                checkpoint, own_config, tensors, notes, said, labels=labels, version=version
            )
    else:
        tensors, notes = open_checkpoint(checkpoint, key)
    try:
        found = find_modules({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        found, tensors = read_initial_states(found, tensors)
        if said.crf is not None:
            found, tensors = read_matrix(found, tensors, said.crf)
        chain = find_chain(found, said) if said.chain is None else written_chain(found, said)
        graph = draw(chain, found)
        config = _config(graph.inputs, graph.layers, graph.outputs, labels, version)
    except ValidationError as error:
        raise ModelError(f"{checkpoint}: {first_problem(error)}") from error
    except ValueError as error:
        raise ModelError(f"{checkpoint}: {error}") from error
    own = _own_tensors(graph, config, tensors, checkpoint)
    has_norms = any(module.kind in ("layer_norm", "batch_norm") for module in found)
    unproven = _UNPROVEN.format(norms=_NORMS if has_norms else "")
    return Imported(config, own, notes, table(config, graph.sources), unproven)


def _as_the_file_says(
    path: Path,
    own: ModelConfig,
    tensors: Mapping[str, Tensor],
    notes: Sequence[str],
    said: Said,
    *,
    labels: Sequence[str],
    version: int,
) -> Imported:
    """Take a model of another framework, whose file says what its layers read."""
    if said != Said():
        raise ModelError(f"{path}: says itself what its layers read; leave out the flags for that")
    layers = [layer.model_dump() for layer in own.layers]
    inputs = {name: entry.model_dump() for name, entry in own.inputs.items()}
    try:
        config = _config(inputs, layers, own.outputs, labels, version)
    except ValidationError as error:
        raise ModelError(f"{path}: {first_problem(error)}") from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    names = {layer.name: layer.name for layer in own.layers}
    return Imported(config, tensors, notes, table(config, names), _UNPROVEN_FOREIGN)


def _config(
    inputs: Mapping[str, Any],
    given: Sequence[Mapping[str, Any]],
    given_outputs: Mapping[str, str],
    labels: Sequence[str],
    version: int,
) -> ModelConfig:
    """The config of these layers, with labels where the owner names them."""
    layers, outputs = list(given), dict(given_outputs)
    named = [output for output in ("logits", "probabilities", "labels") if output in outputs]
    if labels and not named:
        raise ValueError("--labels, but no head whose classes they name")
    if labels and "labels" not in outputs and "logits" in outputs:
        layers.append({"name": "labels", "type": "argmax", "inputs": [outputs["logits"]]})
        outputs["labels"] = "labels"
        named.append("labels")
    return ModelConfig.model_validate(
        {
            "version": version,
            "inputs": inputs,
            "layers": layers,
            "outputs": outputs,
            "labels": dict.fromkeys(named, tuple(labels)) if labels else {},
        }
    )


def _own_tensors(
    graph: Graph, config: ModelConfig, tensors: Mapping[str, Tensor], checkpoint: Path
) -> dict[str, Tensor]:
    """The tensors of the graph's parameters, under their names there. All others of its modules,
    and other shapes, are refused.
    """
    expected = SequenceEncoder(config, device="meta").state_dict()
    # What is missing has the name that the module's other parameters let one expect.
    names = {name: graph.tensors.get(name) or _missing(name, graph.sources) for name in expected}
    used = {name: tensors[name] for name in graph.tensors.values()}
    forbidding = [
        names[f"{layer.name}.{own}"]
        for layer in config.layers
        for own in layer.forbidding
        if f"{layer.name}.{own}" in names
    ]
    wanted = {names[name]: tensor for name, tensor in expected.items()}
    check_tensors(used, wanted, checkpoint, forbidding)
    return {name: used[names[name]] for name in expected}


def _missing(name: str, sources: Mapping[str, str]) -> str:
    layer, _, parameter = name.partition(".")
    return f"{sources[layer]}.{parameter}"


def _several(prefixes: str | Sequence[str]) -> tuple[str, ...]:
    return (prefixes,) if isinstance(prefixes, str) else tuple(prefixes)
