"""The installed commands, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMANDS = Path(sys.executable).parent


def run(command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """An installed command in a process of its own."""
    return subprocess.run(
        [COMMANDS / command, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
