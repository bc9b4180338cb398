"""How many descriptors a process may have. Each case is a process of its own, whose limits are set
by the test."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from bilstm_server.process.descriptors import allow_descriptors
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allowed = allow_descriptors(wanted)
print(allowed, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (100, 300, 200, (200, 200, 300)),  # raised
        (100, 300, 400, (300, 300, 300)),  # as far as it goes
        (200, 300, 100, (200, 200, 300)),  # never lowered
    ],
)
def test_descriptors_are_allowed(
    soft: int, hard: int, wanted: int, expected: tuple[int, int, int]
) -> None:
    """The soft limit is raised to what is wanted, within the hard one."""
    words = map(str, (soft, hard, wanted))
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], check=True, capture_output=True, text=True
    )
    assert tuple(map(int, done.stdout.split())) == expected
