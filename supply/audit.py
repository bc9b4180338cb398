"""Asks OSV, the database of known vulnerabilities, for every package that the images have.

python -m supply.audit [--database URL]

Fails where one is known that is not in ACCEPTED. Where the database can't be reached it says so in
a line, and does not fail: whoever has no network can still run `make check`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from .pins import SERVER, torch_file

DATABASE = "https://api.osv.dev/v1/query"
SECONDS = 3.0  # to reach it
# Identifiers of those that can't be used against the server, each with why.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", metavar="URL", default=DATABASE, help="another OSV API")
    database = parser.parse_args().database
    if (why := unreachable(database)) is not None:
        print(f"audit: skipped, {database} cannot be reached: {why}")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv"]
    command += [
        "--osv-url",
        database,
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner",
        "off",
    ]
    for file in (SERVER, torch_file("cuda")):
        command += ["--requirement", str(file)]
    for identifier in ACCEPTED:
        command += ["--ignore-vuln", identifier]
    return subprocess.run(command).returncode


def unreachable(database: str) -> str | None:
    """Why the database can't be reached; None where it answers, whatever that is."""
    try:
        urlopen(Request(database, data=b"{}"), timeout=SECONDS).close()
    except HTTPError:
        return None
    except (URLError, TimeoutError) as error:
        return str(getattr(error, "reason", error))
    return None


if __name__ == "__main__":
    sys.exit(main())
