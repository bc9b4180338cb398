"""`bilstm-server import`: a checkpoint becomes a model folder."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path

from ..errors import ModelError
from ..exporting.expected import read_examples
from ..exporting.proof import prove
from ..model.storage.chain.links import ACTIVATIONS, POOLINGS, Said
from ..model.storage.folder import write_folder
from ..model.storage.importing import Imported, check_folder, read_checkpoint
from ..quoting import one_line
from .commands import Commands, DefaultsFormatter
from .output import say


def add(commands: Commands) -> None:
    """Add the command to the parser of `bilstm-server`."""
    parser = commands.add_parser(
        "import",
        help="turn a checkpoint into a model folder",
        description="Turn the tensors of a trained module into a model folder, by their names and "
        "shapes alone: LSTMs, embeddings, linear layers, norms and a CRF are found and chained. "
        "What no tensor tells must be said, and the command says what it needs to know.",
        formatter_class=DefaultsFormatter,
    )
    parser.set_defaults(run=_run)
    _add_files(parser)
    _add_chain(parser)
    _add_prefixes(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        help="what to read: a .pt of torch.save, a .safetensors, or a hub's folder of them; or a "
        ".keras, .h5 or .onnx file, most of which say themselves what their layers read",
    )
    add("--out", type=Path, required=True, help="model folder to write")
    add("--overwrite", action="store_true", help="replace a model that is in the folder already")
    add(
        "--expect",
        type=Path,
        metavar="FILE",
        help="an .npz of examples to prove the model by: arrays inputs.NAME.0, outputs.NAME.0, "
        "inputs.NAME.1 and so on, of sequences and what the module gives for each alone; nothing "
        "is written if the largest difference is more than 1e-4",
    )
    add(
        "--key",
        metavar="KEY",
        help="which of the dictionaries in a .pt holds the model: state_dict, or net.model where "
        "one is in another; needed where several hold an LSTM",
    )
    add(
        "--labels",
        default="",
        help="names of the classes, in the order of the head's rows, separated by commas",
    )
    add(
        "--model-version",
        type=int,
        default=1,
        help="version of the model; requests that ask for none get the newest",
    )


def _add_chain(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    pooling = parser.add_mutually_exclusive_group()
    pooling.add_argument(
        "--pooling",
        choices=list(POOLINGS),
        help="what the head reads of the LSTM's outputs, with nothing but dropout in between; "
        "needed where there is a head. last: output[:, -1], the last step, of the backward "
        "direction too. first: output[:, 0]. final: torch.cat((h_n[-2], h_n[-1]), 1), the last "
        "step of the forward direction joined with the first step of the backward one. mean, max, "
        "sum: over all steps",
    )
    pooling.add_argument(
        "--per-step",
        action="store_true",
        help="the head reads the LSTM's output at each step, as a tagger's does",
    )
    add(
        "--head-activation",
        choices=["none", *ACTIVATIONS],
        help="what stands between the linear layers of a head; needed where there are several",
    )
    add(
        "--no-head",
        action="store_true",
        help="leave out what stands behind the LSTM, and serve its states",
    )
    add(
        "--no-embedding",
        action="store_true",
        help="leave out the embedding, and take its vectors from callers",
    )
    add(
        "--ignore-unused",
        action="store_true",
        help="leave out tensors of which no layer can be made; refused where there is a head, "
        "whose logits would be others, and of tensors that may stand before the LSTM",
    )
    add(
        "--chain",
        metavar="A,B,…",
        help="the whole chain, where names and shapes do not tell it, in the order in which it "
        "computes: modules by their names in the file, poolings and activations by the words of "
        "the flags above, and softmax, log_softmax, normalize, argmax; residual (what the LSTM "
        "before read is added), joined (the outputs of all LSTMs), sum_directions. It begins with "
        "an embedding, with NAME:WIDTH for floats, or with several joined by +",
    )
    add(
        "--crf",
        choices=["to-from", "from-to"],
        help="how the matrix of a CRF lies that has START and STOP among its tags: [to, from] as "
        "in PyTorch's tutorial, or [from, to]",
    )


def _add_prefixes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--lstm-prefix",
        action="append",
        default=[],
        metavar="PREFIX",
        help="what the names of an nn.LSTM's parameters begin with; for several that each read the "
        "one before, once for each, in order",
    )
    add(
        "--head-prefix",
        action="append",
        default=[],
        metavar="PREFIX",
        help="what the names of a head's linear layers begin with; for several heads that read the "
        "same, once for each",
    )
    add(
        "--embedding-prefix",
        action="append",
        default=[],
        metavar="PREFIX",
        help="what the name of an nn.Embedding's weight begins with",
    )


def _run(parsed: argparse.Namespace) -> int:
    check_folder(parsed.out, parsed.overwrite)
    said = Said(
        lstm_prefixes=tuple(parsed.lstm_prefix),
        head_prefixes=tuple(parsed.head_prefix),
        embedding_prefixes=tuple(parsed.embedding_prefix),
        pooling=parsed.pooling,
        per_step=parsed.per_step,
        head_activation=parsed.head_activation,
        head=not parsed.no_head,
        embedding=not parsed.no_embedding,
        ignore_unused=parsed.ignore_unused,
        chain=parsed.chain,
        crf=parsed.crf,
    )
    labels = tuple(parsed.labels.split(",")) if parsed.labels else ()
    imported = read_checkpoint(
        parsed.checkpoint, said, key=parsed.key, labels=labels, version=parsed.model_version
    )
    for line in (*imported.notes, *imported.table):
        say(one_line(line))
    say(f"outputs: {', '.join(imported.config.output_names)}")
    say(_proven(imported, parsed.expect) if parsed.expect else imported.unproven)
    write_folder(imported.config, imported.tensors, parsed.out)
    source = shlex.quote(f"{parsed.out.resolve().name}={parsed.out}")
    say(f"serve it with: bilstm-server serve --model {source}")
    return 0


def _proven(imported: Imported, expected: Path) -> str:
    """Hold the model against its owner's examples. Raises `ModelError` if it gives others."""
    examples = read_examples(expected, imported.config)
    with tempfile.TemporaryDirectory(prefix="bilstm-") as folder:
        write_folder(imported.config, imported.tensors, Path(folder))
        proof = prove(Path(folder), examples)
    say(proof.table())
    if not proof.holds:
        raise ModelError(
            f"{expected}: the model gives other outputs, by {proof.largest:.1e}, so that something "
            "stands between its layers that no tensor tells; see the table, and --chain"
        )
    return f"proven by {len(examples)} sequences: the largest difference is {proof.largest:.1e}"
