"""Writes the digests of the images that are built on or started beside the server.

python -m supply.images [--check]

Each image of the Dockerfile and of docker-compose.yml is named by tag and digest. Without --check,
Docker is asked for the digest that the tag has today, of all its platforms; with it, an image
without a digest, or with two, fails, and nobody is asked.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .pins import ROOT

FILES = (ROOT / "Dockerfile", ROOT / "docker-compose.yml")
# ARG BASE=… and ${…:-…}, as the two kinds of files have their defaults.
NAMED = re.compile(
    r"(?P<before>ARG BASE=|\$\{(?:BASE|\w+_IMAGE):-)"
    r"(?P<tag>[\w./-]+:[\w.-]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="ask nobody and write nothing")
    if parser.parse_args().check:
        wrong = problems([path.read_text("utf-8") for path in FILES])
        print("\n".join(wrong), file=sys.stderr)
        return 1 if wrong else 0
    pin(FILES, ask)
    return 0


def ask(tag: str) -> str:
    """The digest that the registry has for a tag: that of the index of all its platforms."""
    command = ["docker", "buildx", "imagetools", "inspect", tag]
    command += ["--format", "{{.Manifest.Digest}}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def pin(files: tuple[Path, ...], digest_of: Callable[[str], str]) -> None:
    """Give every image of these files the digest of its tag; each tag is asked for once."""
    texts = {path: path.read_text("utf-8") for path in files}
    tags = {found["tag"] for text in texts.values() for found in NAMED.finditer(text)}
    digests = {tag: digest_of(tag) for tag in sorted(tags)}
    for path, text in texts.items():
        path.write_text(
            NAMED.sub(lambda m: f"{m['before']}{m['tag']}@{digests[m['tag']]}", text), "utf-8"
        )
    for tag, digest in digests.items():
        print(f"{tag}@{digest}")


def problems(texts: list[str]) -> list[str]:
    """The images of these texts without a digest, or with several, a line each."""
    digests: dict[str, set[str | None]] = {}
    for text in texts:
        for found in NAMED.finditer(text):
            digests.setdefault(found["tag"], set()).add(found["digest"])
    return [
        f"{tag} has {'no digest' if None in known else 'several digests'}: run `make pin-images`"
        for tag, known in digests.items()
        if None in known or len(known) > 1
    ]


if __name__ == "__main__":
    sys.exit(main())
