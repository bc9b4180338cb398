"""An owner's module is made from its name; what goes wrong is said in a line that names theirs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from bilstm_server.errors import ModelError
from bilstm_server.exporting.owner.code import NOTHING, current_directory, load_module


def make(name: str) -> tuple[nn.Module, object]:
    with current_directory():
        owned = load_module(name)
    return owned.module, owned.example


@pytest.mark.parametrize("name", ["make", "Tagger", "instance"])
def test_made(name: str, owners: Path) -> None:
    """A function, a class and a module are factories; the current folder is looked in."""
    path = list(sys.path)
    module, example = make(f"tagger:{name}")
    assert type(module).__name__ == "Tagger"
    assert example is NOTHING
    assert sys.path == path


def test_with_example(owners: Path) -> None:
    """A factory may give an example with the module."""
    _, example = make("tagger:with_example")
    assert isinstance(example, tuple)
    assert len(example) == 2


REFUSED = {
    "tagger": "'tagger': expected pkg.module:factory",
    "tagger.py:make": "Python finds no module tagger.py; run the command in the folder that has it",
    "a b:make": "'a b:make': expected pkg.module:factory",
    "tagger:": "'tagger:': expected pkg.module:factory",
    "nowhere:make": "nowhere:make: Python finds no module nowhere; run the command in the folder",
    "tagger:absent": "tagger:absent: tagger has no absent",
    "tagger:number": "tagger:number: is a int; expected an nn.Module, or a function",
    "tagger:gives_text": "tagger:gives_text: gives a str; expected an nn.Module, or (module, ex",
    "tagger:needs_sizes": "missing a required argument: 'words'; name a function that needs no",
    "tagger:raises": "tagger:raises failed: RuntimeError: no such data set (line 47 of tagger.py:"
    ' `raise RuntimeError("no such data set")`)',
    "tagger:ends": "tagger:ends failed: SystemExit: 0 (line 51 of tagger.py",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, owners: Path) -> None:
    """What makes no module is refused with the reason; an error of theirs with its line."""
    with pytest.raises(ModelError) as refused:
        make(name)
    assert REFUSED[name] in str(refused.value)


IMPORTS = {
    "import nowhere\n": "ModuleNotFoundError: No module named 'nowhere' (line 1 of misspelt.py",
    "x = 1\nx.y\n": "AttributeError: 'int' object has no attribute 'y' (line 2 of misspelt.py: `x.",
    "def f(:\n": "SyntaxError: invalid syntax (misspelt.py, line 1)",
    "raise SystemExit\n": "misspelt can't be imported: SystemExit (line 1 of misspelt.py",
}


@pytest.mark.parametrize("code", IMPORTS)
def test_import_fails(code: str, owners: Path) -> None:
    """Code that can't be imported is refused with the line that fails."""
    (owners / "misspelt.py").write_text(code)
    with pytest.raises(ModelError) as refused:
        make("misspelt:make")
    assert IMPORTS[code] in str(refused.value)
