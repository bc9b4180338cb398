"""How many processors a process may use, by the files in which Linux tells of quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bilstm_server.model.device import choose_threads
from bilstm_server.process.threads import available_processors

V2 = "0::/pod/container\n"
V1 = "4:memory:/pod\n3:cpu,cpuacct:/pod/container\n1:name=systemd:/\n0::/\n"
CASES: dict[str, tuple[str, dict[str, str], int]] = {
    "no files": ("", {}, 64),
    "v2 without a quota": (V2, {"pod/container/cpu.max": "max 100000"}, 64),
    "v2, half of one": (V2, {"pod/container/cpu.max": "50000 100000"}, 1),
    "v2, two and a half": (V2, {"pod/container/cpu.max": "250000 100000"}, 3),
    "v2, around it": (V2, {"pod/container/cpu.max": "max 100000", "pod/cpu.max": "30000 10000"}, 3),
    "v2, seen as the root": ("0::/\n", {"cpu.max": "400000 100000"}, 4),
    "v2, seen from inside": (V2, {"cpu.max": "400000 100000"}, 4),
    "v2, outside of what is seen": ("0::/../../other\n", {"cpu.max": "400000 100000"}, 4),
    "v2 beside v1": (V2, {"unified/pod/container/cpu.max": "200000 100000"}, 2),
    "v2, more than there are": (V2, {"pod/container/cpu.max": "9900000 100000"}, 64),
    "v2, broken": (V2, {"pod/container/cpu.max": "100000"}, 64),
    "v2, no period": (V2, {"pod/container/cpu.max": "100000 0"}, 64),
    "v1 without a quota": (
        V1,
        {
            "cpu,cpuacct/pod/container/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/pod/container/cpu.cfs_period_us": "100000",
        },
        64,
    ),
    "v1": (
        V1,
        {
            "cpu,cpuacct/pod/container/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/pod/container/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "v1, around it, mounted as cpu": (
        V1,
        {"cpu/pod/cpu.cfs_quota_us": "20000", "cpu/pod/cpu.cfs_period_us": "10000"},
        2,
    ),
    "v1, seen as the root": (
        V1,
        {"cpu/cpu.cfs_quota_us": "20000", "cpu/cpu.cfs_period_us": "20000"},
        1,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_quotas(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest quota counts, of the process's group and of those around it, rounded up."""
    groups, files, expected = CASES[case]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (files | {"proc/self/cgroup": groups}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n" if text else "")
    assert available_processors(tmp_path) == expected


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("setting", "variable", "expected"), [(0, None, 1), (0, "2", 2), (2, None, 2), (2, "1", 2)]
)
def test_who_says_how_many(
    setting: int, variable: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--threads wins over OMP_NUM_THREADS, and that over the quota."""
    monkeypatch.setattr("bilstm_server.model.device.available_processors", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert choose_threads(setting) == expected
