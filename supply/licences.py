"""Writes the table of docs/licences.md: the licence of each package that the images have.

python -m supply.licences [--check]

pip asks the package index for what each package says of itself, since those of CUDA are not
installed here. `--check` asks nobody: the table must have the packages of requirements/, with
licences that are allowed, and as the packages installed here say. SystemExit says what is not so.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from license_expression import get_spdx_licensing
from packaging.utils import NormalizedName, canonicalize_name

from .pins import NOT_SHIPPED, ROOT, SERVER, Pin, read_pins, torch_file

PAGE = ROOT / "docs/licences.md"
BEGIN, END = "<!-- licences: made by `make licences` -->", "<!-- /licences -->"
PIP = "pip==26.2"  # that of a venv may be too old to know License-Expression

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
# What asks for no more than to be named, and MPL-2.0, which holds for its own files (tqdm's).
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "MIT", "MIT-0"),
    *("PSF-2.0", "Zlib", "LLVM-exception", "MPL-2.0"),
}
# The words of packages that name no licence as SPDX does, and which one they mean.
MEANT = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
    "NVIDIA Proprietary Software": NVIDIA,
}
# An empty package that only names others, which are NVIDIA's.
SILENT = {canonicalize_name("cuda-toolkit"): NVIDIA}


@dataclass(frozen=True, slots=True)
class Row:
    """A package of the images, the licence that it names, and which images have it."""

    pin: Pin
    licence: str
    images: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="ask and write nothing")
    if parser.parse_args().check:
        wrong = problems(PAGE.read_text("utf-8"))
        print("\n".join(wrong), file=sys.stderr)
        return 1 if wrong else 0
    said = ask()
    rows = [Row(pin, said[pin.name], images) for pin, images in shipped()]
    if wrong := refused(rows):
        raise SystemExit("\n".join(wrong))
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}{END}{rest.partition(END)[2]}", "utf-8")
    return 0


def shipped() -> list[tuple[Pin, str]]:
    """The packages of the images, and which image each is in: "both" or "cuda"."""
    pins = [(pin, "both") for pin in read_pins(SERVER) if pin.name not in NOT_SHIPPED]
    of_torch = read_pins(torch_file("cuda"))
    pins += [(pin, "both" if pin.name == "torch" else "cuda") for pin in of_torch]
    return sorted(pins, key=lambda each: each[0].name)


def ask() -> dict[NormalizedName, str]:
    """What pip learns of the licence of each package, without downloading the package."""
    command = [sys.executable, "-m", "uv", "run", "--no-project", "--quiet", "--with", PIP]
    command += [
        "--python",
        sys.executable,
        "python",
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
    ]
    command += ["--ignore-installed", "--require-hashes", "--only-binary", ":all:", "--report", "-"]
    for file in (SERVER, torch_file("cuda")):
        command += ["--requirement", str(file)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    packages = [package["metadata"] for package in json.loads(done.stdout)["install"]]
    return {
        name: declared(
            name, each.get("license_expression"), each.get("license"), each.get("classifier", ())
        )
        for each in packages
        for name in [canonicalize_name(each["name"])]
    }


def declared(
    name: NormalizedName, expression: str | None, words: str | None, classifiers: Sequence[str]
) -> str:
    """The licence that a package's metadata names, as an SPDX expression. SystemExit where it names
    one in words that are not in MEANT."""
    if expression:
        return expression
    said = [words] if words else [c for c in classifiers if c.startswith("License ::")]
    for word in said:
        if word in MEANT:
            return MEANT[word]
        if is_spdx(word):
            return word
    if not said and name in SILENT:
        return SILENT[name]
    raise SystemExit(f"{name} names its licence {said}: say in supply/licences.py what it means")


@cache
def spdx() -> Any:
    """The licences that SPDX lists: read once, since that takes a second."""
    return get_spdx_licensing()


def is_spdx(expression: str) -> bool:
    return expression == NVIDIA or not spdx().validate(expression).errors


def refused(rows: Sequence[Row]) -> list[str]:
    """The packages whose licence is not one of those that are allowed, each with why."""
    return [
        f"{row.pin.name}: {licence} is not allowed in supply/licences.py"
        for row in rows
        for licence in spdx().license_keys(row.licence)
        if licence not in ALLOWED and (licence, row.images) != (NVIDIA, "cuda")
    ]


def table(rows: Sequence[Row]) -> str:
    lines = ["| Package | Version | Licence | Images |", "| --- | --- | --- | --- |"]
    lines += [f"| {r.pin.name} | {r.pin.version} | {r.licence} | {r.images} |" for r in rows]
    return "\n".join(lines) + "\n"


def problems(page: str) -> list[str]:
    """What is wrong with the table of that page, a line each."""
    rows = {row.pin.name: row for row in read_table(page)}
    expected = {pin.name: (pin.version, images) for pin, images in shipped()}
    wrong = [f"{name} is not shipped: run `make licences`" for name in rows.keys() - expected]
    for name, (version, images) in expected.items():
        row = rows.get(name)
        if row is None or (row.pin.version, row.images) != (version, images):
            wrong.append(f"docs/licences.md lacks {name} {version}: run `make licences`")
        elif (said := installed(row.pin)) not in (None, row.licence):
            wrong.append(f"{name} says {said}, docs/licences.md {row.licence}: run `make licences`")
    return sorted(wrong) + refused(list(rows.values()))


def read_table(page: str) -> list[Row]:
    cells = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \| (both|cuda) \|$", page, re.MULTILINE)
    return [
        Row(Pin(canonicalize_name(name), version, ()), licence, images)
        for name, version, licence, images in cells
    ]


def installed(pin: Pin) -> str | None:
    """What the package that is installed here says; None where none is, or in another version."""
    try:
        said = metadata(pin.name)
    except PackageNotFoundError:
        return None
    if said["Version"].partition("+")[0] != pin.version:
        return None
    expression, words, classifiers = (
        said.get_all(field) or [] for field in ("License-Expression", "License", "Classifier")
    )
    return declared(pin.name, "".join(expression), "".join(words), classifiers)


if __name__ == "__main__":
    sys.exit(main())
