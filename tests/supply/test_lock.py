"""requirements/: all that the image installs, and its hashes."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from supply.lock import split
from supply.pins import BUILD, REQUIREMENTS, ROOT, SERVER, Pin, read_pins, torch_file

FILES = sorted(REQUIREMENTS.glob("*.txt"))


def required(name: str, extras: frozenset[str]) -> set[str]:
    """The names of all that the package installed here needs, itself left out."""
    found: set[tuple[str, frozenset[str]]] = set()
    open_ends = [(canonicalize_name(name), extras)]
    while open_ends:
        name, extras = open_ends.pop()
        for line in distribution(name).requires or ():
            needed = Requirement(line)
            wanted = (canonicalize_name(needed.name), frozenset(needed.extras))
            applies = needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras or {""}
            )
            if applies and wanted not in found:
                found.add(wanted)
                open_ends.append(wanted)
    return {name for name, _ in found}


def test_all_that_is_needed_is_pinned_and_nothing_else() -> None:
    """The files for CPUs have the packages that the extras `server` and `tracing` need."""
    pinned = {pin.name for pin in read_pins(SERVER) + read_pins(torch_file("cpu"))}
    assert pinned == required("bilstm", frozenset({"server", "tracing"}))


def test_versions_are_those_of_the_constraints() -> None:
    """The image has what is tested here."""
    tested = {pin.name: pin.version for pin in read_pins(ROOT / "constraints.txt")}
    for path in FILES:
        for pin in read_pins(path):
            version = pin.version.partition("+")[0]
            assert version == tested.get(pin.name, version), (path.name, pin.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_pin_has_hashes(path: Path) -> None:
    """A file that is in none of the lists can't be installed, and no line says where to look."""
    for pin in read_pins(path):
        assert pin.hashes, pin.name
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pin.hashes), pin.name


def test_what_builds_the_project_is_pinned() -> None:
    """As pyproject.toml allows it."""
    (pin,) = read_pins(BUILD)
    assert pin.name == "setuptools"
    assert Requirement("setuptools>=77").specifier.contains(pin.version)


def test_torch_stands_apart() -> None:
    """torch, and what only its CUDA build needs, is in a file of its own; the driver's library is
    the server's."""
    blocks = {
        name: f"{name}==1 \\\n    --hash=sha256:{name}\n"
        for name in (
            "cuda-bindings",
            "numpy",
            "nvidia-ml-py",
            "nvidia-nccl-cu13",
            "torch",
            "triton",
        )
    }
    rest, torch = split("".join(blocks.values()))
    assert rest == blocks["numpy"] + blocks["nvidia-ml-py"]
    assert torch == "".join(
        blocks[name] for name in ("cuda-bindings", "nvidia-nccl-cu13", "torch", "triton")
    )


def test_a_requirement_without_a_version(tmp_path: Path) -> None:
    """Is named."""
    path = tmp_path / "loose.txt"
    path.write_text("numpy>=2 \\\n    --hash=sha256:0\n")
    with pytest.raises(ValueError, match="'numpy>=2' pins no version"):
        read_pins(path)


def test_the_image_installs_by_hash_only() -> None:
    """Each `pip install` of the Dockerfile asks for hashes, or installs the project alone, with
    nothing that it would fetch."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    commands = re.findall(r"pip install .*?(?=&&|\n)", dockerfile)
    assert len(commands) == 3
    for command in commands:
        alone = {"--no-deps", "--no-build-isolation"} <= set(command.split())
        assert alone or {"--require-hashes", "--only-binary"} <= set(command.split()), command


def test_pins_are_read() -> None:
    """Name, version and hashes of what pip reads."""
    (torch,) = read_pins(torch_file("cpu"))
    assert isinstance(torch, Pin)
    assert (torch.name, torch.version.partition("+")[2]) == ("torch", "cpu")
