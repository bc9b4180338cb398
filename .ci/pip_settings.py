"""Gives a root file system this machine's pip settings, with the files and folders they name.

python3 .ci/pip_settings.py ROOT
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

WHERE_PACKAGES_ARE = ("cert", "constraint", "find-links", "index-url")

root = Path(sys.argv[1])
listed = subprocess.run(
    [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
)
settings: dict[str, str] = {}
for line in listed.stdout.splitlines():
    name, _, quoted = line.partition("=")
    key, value = name.rpartition(".")[2], quoted.strip("'")
    if key not in WHERE_PACKAGES_ARE:
        continue
    settings[key] = value
    source, target = Path(value), root / value.removeprefix("/")
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
lines = ["[global]", *(f"{key} = {value}" for key, value in settings.items()), ""]
(root / "etc/pip.conf").write_text("\n".join(lines), encoding="utf-8")
