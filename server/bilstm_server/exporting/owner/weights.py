"""A checkpoint's tensors, put into the module that they were saved from, under whatever prefix."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...model.storage.checkpoints.opening import read_dictionary, taken
from ...quoting import listed, one_line
from ..refusals import ExportError

_COMPILED = "_orig_mod"  # what torch.compile puts into the names
_UNLESS = "if that is meant, load them in the factory, with load_state_dict(…, strict=False)"


def load_weights(module: nn.Module, path: Path, key: str | None) -> list[str]:
    """Load a checkpoint into the module, all of its tensors and no others.

    Of a file with several dictionaries the one that has the module's tensors is taken, or the one
    under `key`. Prefixes of a wrapper's, in the file or in the module, are put off or on. Returns
    notes on what was taken. Raises `ModelError` in one line.
    """
    state = module.state_dict(keep_vars=True)
    own = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    chosen = read_dictionary(path, key, lambda tensors: _has_most(tensors, own))
    renamed, prefix, left = _renamed(chosen.tensors, own)
    inside = [name for name in left if _plain(name).startswith(prefix)]
    _check_names(renamed, inside, own, path)
    _check_shapes(chosen.tensors, renamed, own, path)
    with_state = {own_name: chosen.tensors[name] for own_name, name in renamed.items()}
    try:
        module.load_state_dict(with_state, strict=False)
    except Exception as error:  # a module's own loading may refuse for any reason
        words = one_line(" ".join(str(error).split()), 300)
        raise ExportError(f"{path}: {type(module).__name__} does not take it: {words}") from error
    notes = list(taken(chosen))
    if prefix:
        others = f"; not taken: {listed(left)}" if left else ""
        notes.append(f"took the tensors whose names begin with {prefix}{others}")
    return notes


def _has_most(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return 2 * len(_renamed(tensors, own)[0]) > len(own)


def _renamed(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, str], str, list[str]]:
    """The file's name for each of the module's tensors, the prefix that the file's have, and the
    file's names that are left."""
    ours = {_plain(name): name for name in own}
    theirs = {_plain(name): name for name in tensors}
    best: tuple[dict[str, str], str] = {}, ""
    for in_file in _prefixes(theirs):
        for in_module in _prefixes(ours) if not in_file else [""]:
            found = {
                name: theirs[in_file + plain.removeprefix(in_module)]
                for plain, name in ours.items()
                if plain.startswith(in_module) and in_file + plain[len(in_module) :] in theirs
            }
            if len(found) > len(best[0]):
                best = found, in_file
    used = set(best[0].values())
    return *best, [name for name in tensors if name not in used]


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def _prefixes(names: Collection[str]) -> Iterator[str]:
    """No prefix, then every one that a name begins with."""
    found = {"": None}
    for name in names:
        parts = name.split(".")
        found |= dict.fromkeys(".".join(parts[:count]) + "." for count in range(1, len(parts)))
    yield from found


def _check_names(
    renamed: Mapping[str, str], left: Collection[str], own: Mapping[str, Tensor], path: Path
) -> None:
    """Raise for what the file misses, or has more. A tensor that the module has under two names may
    be there once; counters of steps may be missing."""
    there = {id(own[name]) for name in renamed}
    missing = [
        name
        for name, tensor in own.items()
        if name not in renamed
        and id(tensor) not in there
        and not name.endswith("num_batches_tracked")
    ]
    if missing:
        has = f", and has others: {listed(left)}" if left else ""
        raise ExportError(f"{path}: lacks {listed(missing)} of the module{has}; {_UNLESS}")
    if left:
        raise ExportError(f"{path}: holds {listed(left)}, which the module has not; {_UNLESS}")


def _check_shapes(
    tensors: Mapping[str, Tensor],
    renamed: Mapping[str, str],
    own: Mapping[str, Tensor],
    path: Path,
) -> None:
    """Raise for the first tensor whose shape is another in the file."""
    for name, its in renamed.items():
        if is_lazy(own[name]) or own[name].shape == tensors[its].shape:
            continue
        raise ExportError(
            f"{path}: {its} is {list(tensors[its].shape)}, the module's is "
            f"{list(own[name].shape)}; make it with the sizes that it was trained with"
        )
