"""How torch's threads wait for each other, set for the whole process, and how many this process has
the processors for. Import it before torch.

Where torch is built with GNU OpenMP, a thread that waits spins, by default for about a
millisecond, at the end of every parallel operation, and an LSTM has several of those a step. As
soon as another process wants the cores, spinning threads keep the working ones from running: on
two busy cores that made the engine some ten times slower. Spinning for a few microseconds costs
nothing on an idle machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SPINS = 2_000

os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def available_processors(root: Path = Path("/")) -> int:
    """How many processors this process may use: those it may run on, or fewer where a control
    group, its own or one around it, has a quota. `root` is the file system's."""
    processors = len(os.sched_getaffinity(0))
    return max(1, min([processors, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Each quota that is seen here, as a number of processors; control groups of version 1 and
    2."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        match line.split(":", 2):
            case [_, "", path]:
                for mount in (mounts, mounts / "unified"):
                    for folder in _upwards(mount, path):
                        yield from _quota(_read(folder / "cpu.max"))
            case [_, controllers, path] if "cpu" in controllers.split(","):
                for mount in (mounts / controllers, mounts / "cpu"):
                    for folder in _upwards(mount, path):
                        files = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
                        yield from _quota(" ".join(map(_read, files)))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The folders from the group's to the mount. A container may see its own group as the mount,
    under a path that is not there."""
    group = mount / PurePosixPath(path).relative_to("/")
    return iter((group, *(parent for parent in group.parents if parent.is_relative_to(mount))))


def _quota(text: str) -> Iterator[float]:
    """The processors of a quota, `QUOTA PERIOD` in microseconds; none if it is `max` or
    negative."""
    match text.split():
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
