"""`bilstm-server` as it is typed into a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bilstm_server.settings import Settings

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


Load = Callable[..., Settings]
