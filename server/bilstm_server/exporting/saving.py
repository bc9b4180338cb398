"""`export`: a live module becomes a model folder that was proven to give the same."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModelError
from ..model.storage.folder import CONFIG, write_folder
from .converting import Converted, Labels, convert
from .long import check_long
from .proof import Example, Proof, lengths_to_prove, prove
from .refusals import ExportError
from .results import Outputs
from .tables import layers_table


def export(
    module: nn.Module,
    folder: str | Path,
    *,
    example: Any,
    kwargs: Mapping[str, Any] | None = None,
    lengths: Any = None,
    outputs: Outputs = None,
    labels: Labels = None,
    version: int = 1,
    overwrite: bool = False,
) -> Proof:
    """Write a module as a model folder, and prove that what is served is what the module gives.

    The module is called as `module(*example, **kwargs)`, or `module(example)` if that is no tuple,
    in eval mode, with lone sequences of several lengths made from the example's steps. What it
    computes becomes layers; its code is not part of the folder. Masks and lengths are no inputs:
    the server pads nothing.

    Args:
        folder: where to write; one that holds a model is refused unless `overwrite`.
        example: arguments for one sequence, as a batch of one or without a batch. Of a batch of
            several, the longest is taken.
        lengths: the number of steps, or those of the sequences of a padded batch, where the
            example has no lengths itself.
        outputs: what to serve. Left out: all tensors that the module returns, named by what they
            are or by their keys. A list names the results in order, None leaves one out. A function
            gets the module and the tuple of arguments, and returns tensors by name: so that
            `module.crf.decode(…)`, say, is served too.
        labels: names of the classes: of all outputs that have so many, or by output.
        version: of the model, as clients see it.

    Prints the layers, and how far every output was from the module's, and returns the latter. The
    module is left as it was, in its mode too. Raises `ExportError` in one line for what
    can't be served: with the module and its line, and what can be done.
    """
    exported = export_proven(
        module,
        Path(folder),
        example=example,
        kwargs=kwargs,
        lengths=lengths,
        outputs=outputs,
        labels=labels,
        version=version,
        overwrite=overwrite,
    )
    print(*exported.lines(), sep="\n", flush=True)
    return exported.proof


@dataclass(frozen=True)
class Exported:
    """A module that was written as a model folder, and the proof that it is served right."""

    converted: Converted
    proof: Proof
    folder: Path

    def lines(self) -> list[str]:
        """What the owner should see: the layers, notes, the proof, and how to serve it."""
        source = shlex.quote(f"{self.folder.resolve().name}={self.folder}")
        return [
            layers_table(self.converted.config),
            *self.converted.notes,
            "",
            self.proof.table(),
            f"proven by {self.proof.words}",
            f"serve it with: bilstm-server serve --model {source}",
        ]


def export_proven(
    module: nn.Module, folder: Path, *, overwrite: bool = False, version: int = 1, **given: Any
) -> Exported:
    """Write a module as a model folder, proven, and say nothing. The arguments are as `export` has
    them."""
    check_folder(folder, overwrite, version)
    example, kwargs = given.pop("example"), given.pop("kwargs", None)
    converted = convert(module, example, kwargs=kwargs, version=version, **given)
    with tempfile.TemporaryDirectory(prefix="bilstm-") as unproven:
        write_folder(converted.config, converted.tensors, Path(unproven))
        proof = prove(Path(unproven), list(examples_of(converted)))
    wrong = next((its for its in proof.differences if not its.is_right), None)
    if wrong is not None:
        raise ExportError(
            f"{wrong.output} would not be what the module gives ({wrong.way}; off by "
            f"{wrong.largest:.1e}, {wrong.wrong_ids} ids): what it computes depends on the length "
            "of a sequence or on its numbers, in a way that no recording showed"
        )
    notes = (*converted.notes, *_not_compared(converted, proof), *check_long(converted))
    write_folder(converted.config, converted.tensors, folder)
    return Exported(replace(converted, notes=notes), proof, folder)


def _not_compared(converted: Converted, proof: Proof) -> Iterator[str]:
    """Lengths for which the module itself fails."""
    missing = sorted(set(lengths_to_prove(converted.config.min_steps)) - set(proof.lengths))
    if missing:
        yield (
            f"The module itself fails for {', '.join(map(str, missing))} steps; what is served "
            "takes such sequences, and gives what no module can prove."
        )


def check_folder(folder: Path, overwrite: bool, version: int) -> None:
    """Raise `ModelError` for a folder that holds a model already, unless it may be overwritten, and
    for what is no version."""
    if version < 1:
        raise ModelError(f"the model's version must be 1 or more, got {version}")
    if (folder / CONFIG).exists() and not overwrite:
        raise ModelError(f"{folder}: holds a model already; choose another folder, or overwrite it")


def examples_of(converted: Converted) -> Iterator[Example]:
    """Sequences of several lengths, drawn from the example's steps, and what the module gives.
    Lengths that are too short for the module are left out."""
    lengths = lengths_to_prove(converted.config.min_steps)
    shortest = converted.shortest
    for steps in (*lengths, *((shortest, shortest + 1) if shortest > 40 else ())):
        # In the floats that callers send, whatever the module computes in.
        inputs = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in converted.sample(steps, seed=steps).items()
        }
        try:
            outputs = converted.run(inputs)
        except ExportError:  # of the owner's code, which may need several steps
            if steps >= converted.shortest:
                raise
            continue
        yield Example(
            {name: tensor.numpy() for name, tensor in inputs.items()},
            {name: tensor.numpy() for name, tensor in outputs.items()},
        )
