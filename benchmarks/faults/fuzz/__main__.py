"""Sends one case of a trial again, and tells what it is and how it ended.

    python -m benchmarks.faults.fuzz HOST:PORT --call 1234
    python -m benchmarks.faults.fuzz HOST:PORT --connection 1234

The server must serve what the trial's does: see `traffic.served_models`.
"""

from __future__ import annotations

import argparse
from collections import Counter

from . import calls, connections
from .traffic import recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", metavar="HOST:PORT")
    case = parser.add_mutually_exclusive_group(required=True)
    case.add_argument("--call", type=int, metavar="NUMBER")
    case.add_argument("--connection", type=int, metavar="NUMBER")
    chosen = parser.parse_args()
    if chosen.call is not None:
        *_, (_, call) = calls.cases_of(recorded(), chosen.call + 1)
        print(call.path, "cancelled" if call.cancelled else "")
        for message in call.messages:
            print(" ", message.hex())
        outcome = calls.Outcome()
        calls.send(chosen.target, chosen.call + 1, outcome, first=chosen.call)
        print(dict(outcome.statuses))
        return
    *_, (_, data) = connections.cases_of(recorded(), chosen.connection + 1)
    print(data.hex())
    ends: Counter[str] = Counter()
    connections.send(chosen.target, chosen.connection + 1, ends, first=chosen.connection)
    print(dict(ends))


if __name__ == "__main__":
    main()
