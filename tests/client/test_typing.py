"""What type checkers and editors make of the client: mypy and pyright accept every use in
`typing/api.py` and refuse each line that `typing/refused.py` marks, and Jedi, which completes in
notebooks and many editors, shows both clients with whole signatures and docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jedi
import pytest

from bilstm_client import AsyncClient, Client, Encoding, EncodingChunk

ROOT = Path(__file__).resolve().parents[2]
TYPING = Path(__file__).parent / "typing"
FILES = [TYPING / "api.py", TYPING / "refused.py"]
REFUSED = {
    ("refused.py", number)
    for number, line in enumerate((TYPING / "refused.py").read_text().splitlines(), 1)
    if line.endswith("# refused")
}
METHODS = {
    *("close", "encode", "encode_batch", "encode_chunks", "encode_stream"),
    *("get_model", "is_ready", "list_models", "wait_until_ready"),
}


def run(*command: str | Path) -> str:
    """What a checker prints, which has found something."""
    checked = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 1, checked.stdout + checked.stderr
    return checked.stdout


def test_mypy() -> None:
    """mypy accepts all uses in `api.py`, and refuses the marked lines of `refused.py` alone."""
    problems = re.findall(r"^(.+):([0-9]+): error: ", run("mypy", *FILES), re.MULTILINE)
    assert {(Path(path).name, int(number)) for path, number in problems} == REFUSED


def test_pyright() -> None:
    """pyright, which Pylance is made of, does so too."""
    python = ("--pythonpath", sys.executable)
    report = json.loads(run("basedpyright", "--project", TYPING, *python, "--outputjson"))
    found = {
        (Path(problem["file"]).name, problem["range"]["start"]["line"] + 1)
        for problem in report["generalDiagnostics"]
    }
    assert found == REFUSED


# -- what an editor shows ----------------------------------------------------------------------


def completions(expression: str) -> dict[str, Any]:
    """What is offered after a dot, by name, less what is private."""
    offered = jedi.Script(f"from bilstm_client import *\nx = {expression}\nx.").complete(3, 2)
    return {found.name: found for found in offered if not found.name.startswith("_")}


@pytest.fixture(scope="module")
def shown() -> dict[str, dict[str, Any]]:
    return {kind: completions(f"{kind}('localhost')") for kind in ("Client", "AsyncClient")}


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_completion(kind: str, shown: dict[str, dict[str, Any]]) -> None:
    """After `client.` both clients' methods are offered, and nothing of the machinery."""
    assert set(shown[kind]) == METHODS | {"target", "is_closed"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_hover(method: str, shown: dict[str, dict[str, Any]]) -> None:
    """Both clients show one signature, with every parameter that the method takes, and the whole
    docstring, the same but for what is asynchronous."""
    docs: list[str] = []
    for kind in (Client, AsyncClient):
        found = shown[kind.__name__][method]
        (signature,) = found.get_signatures()
        taken = list(inspect.signature(getattr(kind, method)).parameters)
        assert [parameter.name for parameter in signature.params] == taken[1:]
        assert not {"args", "kwargs", "options"} & set(taken)
        docs.append(inspect.cleandoc(found.docstring(raw=True)))
        assert docs[-1] == inspect.getdoc(getattr(kind, method))
        assert "Client." not in docs[-1]
    if method == "encode_stream":
        docs = [doc.partition("\n\n")[0] for doc in docs]
    assert docs[0] == docs[1]


@pytest.mark.parametrize("kind", [Encoding, EncodingChunk])
def test_results_are_explained(kind: type) -> None:
    """What a result has is offered with a docstring of its own."""
    call = {Encoding: "Client('').encode([])", EncodingChunk: "next(Client('').encode_chunks([]))"}
    offered = completions(call[kind])
    properties = dict(inspect.getmembers(kind, lambda own: isinstance(own, property)))
    assert set(offered) == {*properties, "names_of"}
    for found in offered.values():
        assert found.docstring(raw=True).rstrip().endswith(".")
