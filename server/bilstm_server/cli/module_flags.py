"""Arguments of the commands that run a module of the owner's."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import StartError
from ..exporting.owner.call import OwnersCall, load_call

FACTORY = (
    "what makes the module: a function or class that needs no arguments, or a module itself, as "
    "Python imports it from the current folder or elsewhere; it may give (module, example)"
)
_NEED_MODULE = ("weights", "key", "example", "outputs")


def add_call(parser: argparse.ArgumentParser) -> None:
    """Add what the module is loaded with and called with."""
    add = parser.add_argument
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint to load into the module, all of it: a .pt of torch.save, a .safetensors, "
        "or a hub's folder; dictionaries around the state_dict and prefixes of its names are seen "
        "through. Left out: the module keeps the weights that the factory gives it",
    )
    add(
        "--key",
        metavar="KEY",
        help="which of the dictionaries in a .pt holds the weights; needed where several do",
    )
    add(
        "--example",
        type=Path,
        metavar="FILE",
        help="arguments of forward for one sequence, as the module takes them: an .npz by their "
        "names, or as arg0, arg1, …; an .npy; or a .pt of a tensor, a tuple, or a dictionary. Left "
        "out: made up from the sizes that the module's layers read",
    )
    add(
        "--outputs",
        metavar="NAME,…",
        help="names of what forward returns, in order, with _ for what is not served; or a "
        "pkg.module:function that gets the module and its arguments, and returns a dictionary of "
        "tensors. Left out: all of it, named by what it is",
    )


def owners_call(factory: str, parsed: argparse.Namespace) -> OwnersCall:
    """The module, and how it is called."""
    given = {name: getattr(parsed, name) for name in _NEED_MODULE}
    return load_call(factory, **given)


def check_needless(parsed: argparse.Namespace) -> None:
    """Raise `StartError` for arguments of a module where there is none."""
    for name in _NEED_MODULE:
        if getattr(parsed, name) is not None:
            raise StartError(f"--{name} is for --module, which is not given")
