"""What the compiler of this machine can do."""

from __future__ import annotations

import subprocess

from bilstm_server.model.kernels.cpu.build import Variant


def knows(compiler: list[str], variant: Variant) -> bool:
    """Whether the compiler has the variant's instructions at all."""
    command = [*compiler, *variant.flags, "-x", "c++", "-fsyntax-only", "/dev/null"]
    return subprocess.run(command, capture_output=True).returncode == 0
