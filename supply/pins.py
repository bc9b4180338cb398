"""The files in requirements/: what the image installs, and nothing else. `supply/lock.py` writes
them; pip reads them with `--require-hashes`; the rest of supply/ reads them here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
SERVER = REQUIREMENTS / "server.txt"
BUILD = REQUIREMENTS / "build.txt"

# torch requires it to be installed, and never imports it here: the Dockerfile removes it again.
NOT_SHIPPED = {canonicalize_name("setuptools")}


@dataclass(frozen=True, slots=True)
class Pin:
    """A package at one version, with the SHA-256 of each file that may be installed as it."""

    name: NormalizedName
    version: str
    hashes: tuple[str, ...]


def torch_file(build: str) -> Path:
    """The file that pins one build of torch, such as "cpu" or "cuda", and what only it needs."""
    return REQUIREMENTS / f"torch-{build}.txt"


def read_pins(path: Path) -> list[Pin]:
    """The pins of a file of requirements. ValueError names a line that pins no version."""
    return [_parse(entry) for entry in entries(path.read_text(encoding="utf-8"))]


def entries(text: str) -> list[str]:
    """Each requirement of a file with its hashes, as one line."""
    joined = text.replace("\\\n", "").splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def _parse(entry: str) -> Pin:
    requirement, *hashes = entry.split("--hash=sha256:")
    parsed = Requirement(requirement)
    versions = [part.version for part in parsed.specifier if part.operator == "=="]
    if len(versions) != 1:
        raise ValueError(f"{requirement.strip()!r} pins no version: run `make lock`")
    return Pin(canonicalize_name(parsed.name), versions[0], tuple(h.strip() for h in hashes))
