"""The soak, for a moment: its load is whole, and it tells what the server holds.

Whether that grows, minutes must tell: `make soak`.
"""

from __future__ import annotations

from benchmarks.soak import trial


def test_a_soak_fails_nothing_and_measures_all() -> None:
    """Calls and streams come, some are cancelled, none fails, and the server drains."""
    figures = {finding.measured: finding.figure for finding in trial(3.0, 1.0, share=0.5)}
    for ended in ("calls answered", "calls cancelled", "streams cancelled"):
        assert figures[ended] > 0, ended
    assert figures["calls and streams that failed"] == 0
    assert figures["drained in the end"] == 1
    for held in ("descriptors", "threads"):
        assert figures[f"{held} after warm-up"] > 0
    assert figures["reloads"] > 0
    assert figures["files read anew"] >= 2 * figures["reloads"]
    assert all(figures[f"memory after warm-up, part {part} of 5"] > 0 for part in range(1, 6))
    assert abs(figures["growth of memory from part 1 to 5"]) < 100  # %
