"""Pages of the documentation: their code, and what runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The commands of this environment, as the reader has them after `make`.
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(line: str, cwd: Path) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(line.split(), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_shell(script: str) -> None:
    subprocess.run(["bash", "-euc", script], env=ENVIRONMENT, check=True)


def blocks(page: str, language: str) -> list[str]:
    """The page's code blocks."""
    return blocks_in((ROOT / page).read_text(encoding="utf-8"), language)


def blocks_in(text: str, language: str) -> list[str]:
    """The code blocks of a page's text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
