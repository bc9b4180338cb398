"""Compiles the CPU kernel, ahead of time and for each instruction set, and finds what was compiled.

The libraries lie in the folder `compiled` here, named by instruction set and by a digest of the
source and the flags: one of another version is never loaded. They need nothing of torch or Python.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_COMPILED = _HERE / "compiled"
_SOURCE = _HERE / "cpu.cpp"
# No contraction: where it happens would depend on how the compiler inlines, and so would results.
_FLAGS = [
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]


@dataclass(frozen=True, slots=True)
class Variant:
    """The kernel for one instruction set."""

    name: str
    cpu_flags: frozenset[str]  # as /proc/cpuinfo names them
    macros: list[str]
    flags: list[str]

    def command(self, compiler: list[str]) -> list[str]:
        """The command that compiles it, but for the output's `-o NAME`."""
        return [*compiler, *_FLAGS, *self.flags, *(f"-D{m}" for m in self.macros), str(_SOURCE)]

    def library(self) -> Path:
        """Where its library lies, once it was compiled."""
        return _COMPILED / f"cpu-{self.name}-{_digest(*self.flags, *self.macros)}.so"


def _variants() -> list[Variant]:
    avx2 = frozenset({"avx2", "fma"})
    avx512 = avx2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
    bf16 = avx512 | {"avx512_bf16"}
    wide = "BILSTM_LANES=16"
    dot = [*_AVX512, "-mavx512bf16"]
    return [
        Variant(
            "amx",
            bf16 | {"amx_tile", "amx_bf16"},
            [wide, "BILSTM_BFLOAT16_TILES"],
            [*dot, "-mamx-tile", "-mamx-bf16"],
        ),
        Variant("avx512_bf16", bf16, [wide, "BILSTM_BFLOAT16_DOT"], dot),
        Variant("avx512", avx512, [wide], _AVX512),
        Variant("avx2", avx2, ["BILSTM_LANES=8"], ["-mavx2", "-mfma"]),
    ]


NO_VARIANT = "it needs an x86-64 CPU with AVX2 and FMA"

# Fastest first.
VARIANTS = _variants()


class BuildError(Exception):
    """The kernel could not be compiled; the message says why."""


@cache
def cpu_flags() -> frozenset[str]:
    """This CPU's features, as Linux names them; none on another system or architecture."""
    if platform.machine() != "x86_64":
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def runnable() -> list[Variant]:
    """The variants that this CPU can run, fastest first."""
    return [v for v in VARIANTS if v.cpu_flags <= cpu_flags()]


def build(variant: Variant) -> Path:
    """Compile the variant, unless it is there already, and remove those of other versions of it.

    Uses the command in `$CXX`, or else c++, g++ or clang++. Raises `BuildError`.
    """
    library = variant.library()
    if library.exists():
        return library
    compiler = find_compiler()
    try:
        _COMPILED.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_COMPILED) as folder:
            unfinished = Path(folder) / library.name
            compile_library(variant.command(compiler), unfinished)
            unfinished.rename(library)
    except OSError as error:
        raise BuildError(f"cannot write to {_COMPILED}: {error.strerror}") from error
    for other in _COMPILED.glob(f"cpu-{variant.name}-*.so"):
        if other != library:
            other.unlink(missing_ok=True)
    return library


def compile_library(command: list[str], library: Path) -> None:
    """Run a command that compiles, with `library` as its output. Raises `BuildError`."""
    done = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True)
    if done.returncode:
        reason = next(
            (line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()
        )
        raise BuildError(f"{command[0]} failed: {reason}")


def find_compiler() -> list[str]:
    """Find a compiler: its command and the arguments of its own. Raises `BuildError`."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if path := shutil.which(command[0]):
            return [path, *command[1:]]
    if named:
        raise BuildError(f"no C++ compiler: CXX is {shlex.join(named)!r}, which is not there")
    raise BuildError("no C++ compiler: install g++ (Debian: apt-get install g++) or set CXX")


@cache
def _digest(*flags: str) -> str:
    digest = hashlib.sha256(" ".join([*_FLAGS, *flags]).encode())
    for path in [_SOURCE, *sorted(_HERE.glob("*.h"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
