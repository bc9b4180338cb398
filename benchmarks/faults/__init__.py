"""Attacks on a real server, over loopback: what its callers must not be able to do to each other.

    python -m benchmarks.faults [--check] [--only NAME] [--json FILE]

Each module whose name is a fault has a function `trial` that makes its findings.
"""
