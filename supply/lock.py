"""Writes requirements/ anew: what the image installs, with the hash of every file of it.

python -m supply.lock [--torch-index URL]

server.txt has all but torch; torch-cuda.txt the torch of PyPI and what only it needs; torch-cpu.txt
that of PyTorch's index for CPUs; build.txt what builds the project. Versions are those of
constraints.txt, and of the files as they are. PyTorch's own index is asked only where its file has
another torch than constraints.txt: the hashes of what is released stay as they are.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from .pins import BUILD, ROOT, SERVER, entries, read_pins, torch_file

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EXTRAS = ("--extra", "server", "--extra", "tracing")
# torch, and what it needs on CUDA only. nvidia-ml-py speaks to the driver: the server's own.
OF_TORCH = re.compile(r"(torch|triton|cuda-[a-z-]+|nvidia-(?!ml-py\b)[a-z0-9-]+)==")
HEADER = "# Made by `make lock`, for pip install --require-hashes.\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-index", metavar="URL", help="PyTorch's index of one more build")
    index = parser.parse_args().torch_index
    server, torch = split(
        compile_pins(*EXTRAS, "pyproject.toml", like=[SERVER, torch_file("cuda")])
    )
    write(SERVER, server)
    write(torch_file("cuda"), torch)
    write(BUILD, compile_pins("-", like=[BUILD, SERVER], given="\n".join(_build_requirements())))
    for url in [CPU_INDEX, index] if index else [CPU_INDEX]:
        lock_torch(url)
    return 0


def lock_torch(index: str) -> None:
    """Write the file of the torch of that index, unless it has the version of constraints.txt."""
    path = torch_file(index.rstrip("/").rpartition("/")[2])
    if path.exists() and _torch_version(path) == _torch_version(ROOT / "constraints.txt"):
        return
    # Where both have a package, the versions decide, not the order of the indexes.
    of_index = ("--index", index, "--index-strategy", "unsafe-best-match")
    write(path, split(compile_pins(*EXTRAS, "pyproject.toml", *of_index, like=[SERVER]))[1])


def compile_pins(*arguments: str, like: list[Path], given: str = "") -> str:
    """What uv pins for Linux, on every Python and processor that the project takes; versions of the
    files that it shall be `like` stay. SystemExit where uv can't."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pins.txt"
        out.write_text("".join(p.read_text("utf-8") for p in like if p.exists()), "utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", *arguments]
        command += ["--universal", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        command += ["--constraint", "constraints.txt", "--output-file", str(out)]
        done = subprocess.run(command, cwd=ROOT, input=given, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"uv could not pin {' '.join(arguments)}:\n{done.stderr}")
        return out.read_text("utf-8")


def split(text: str) -> tuple[str, str]:
    """What uv wrote, in two: all but torch, and torch with what only it needs."""
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    torch = [block for block in blocks if OF_TORCH.match(block)]
    return "".join(b for b in blocks if b not in torch), "".join(torch)


def write(path: Path, pins: str) -> None:
    path.write_text(HEADER + pins, encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(entries(pins))} packages")


def _torch_version(path: Path) -> str:
    (version,) = (pin.version for pin in read_pins(path) if pin.name == "torch")
    return version.partition("+")[0]


def _build_requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    requires: list[str] = project["build-system"]["requires"]
    return requires


if __name__ == "__main__":
    sys.exit(main())
