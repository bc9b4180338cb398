"""What real clients send, damaged at random, against a real server: messages, and what is below.

    python -m benchmarks.faults --only fuzz-calls --only fuzz-connections

`traffic` is what was recorded; `messages` and `frames` damage it; `calls` and `connections` are the
trials. A seed and a case's number make the same case everywhere; `python -m benchmarks.faults.fuzz`
sends one again.
"""

from . import calls, connections

__all__ = ["calls", "connections"]
