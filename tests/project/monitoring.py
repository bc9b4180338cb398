"""The dashboard's expressions and the rules as data, and a Prometheus' answers to them.

python tests/project/monitoring.py http://127.0.0.1:9090 [--wait-seconds 60]
    [--gpu] [--long] [--tls]

asks a running Prometheus for every expression of the dashboard and for every recording rule, and
fails, naming them, if some return no data. Knows nothing of who started that Prometheus.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "bilstm.json"

# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$model": ".*"}
# Without a GPU these have no series, and their expressions no data.
NEED_A_GPU = frozenset({"bilstm_device_memory_bytes", "bilstm_device_utilization_ratio"})
# Without long sequences its quantiles are NaN.
NEED_LONG_SEQUENCES = frozenset({"bilstm_slice_compute_seconds_bucket"})
# Without certificates and tokens these have none either.
NEED_FILES = frozenset(
    {
        "bilstm_certificate_end_timestamp_seconds",
        "bilstm_file_refused",
        "bilstm_file_reloads_total",
    }
)
POLL_SECONDS = 0.2

_WORDS = {"and", "or", "unless", "bool", "offset"}
_NOT_NAMES = re.compile(
    r"""
    "[^"]*" | '[^']*'              # strings first: they may hold anything
    | \{[^}]*\} | \[[^\]]*\]       # matchers (without their strings), ranges
    | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])")

Json = Any  # of Grafana, or Prometheus


@dataclass(frozen=True)
class Expression:
    """One expression, ready to be asked for, and whose it is."""

    owner: str
    text: str

    @property
    def metrics(self) -> frozenset[str]:
        """The names of the series that it reads."""
        bare = self.text
        for _ in range(2):  # strings, and then what held them
            bare = _NOT_NAMES.sub(" ", bare)
        return frozenset(_NAME.findall(bare)) - _WORDS

    @property
    def needs_a_gpu(self) -> bool:
        return bool(self.metrics & NEED_A_GPU)

    @property
    def needs_long_sequences(self) -> bool:
        return bool(self.metrics & NEED_LONG_SEQUENCES)

    @property
    def needs_files(self) -> bool:
        return bool(self.metrics & NEED_FILES)


def load_yaml(path: Path) -> Json:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def dashboard() -> Json:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels() -> list[Json]:
    """All panels that show something, rows not among them."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules(kind: str) -> list[Json]:
    """All rules of a kind, "record" or "alert"."""
    files = [load_yaml(path) for path in sorted(PROMETHEUS.glob("rules/*.yml"))]
    found = [rule for file in files for group in file["groups"] for rule in group["rules"]]
    return [rule for rule in found if kind in rule]


def dashboard_expressions() -> Iterator[Expression]:
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in VARIABLES.items():
                text = text.replace(variable, value)
            yield Expression(f"the panel {panel['title']!r}", text)


def recorded_expressions() -> Iterator[Expression]:
    """The names under which the rules' results are kept."""
    for rule in rules("record"):
        yield Expression("a recording rule", rule["record"])


def query(url: str, expression: str) -> list[float]:
    """What a Prometheus answers at this moment: the value of each series, NaN not among them.

    Raises `OSError` if it can't be reached, and `urllib.error.HTTPError` if it can't read the
    expression.
    """
    parameters = urlencode({"query": expression})
    with urlopen(f"{url.rstrip('/')}/api/v1/query?{parameters}", timeout=30) as response:
        data = json.load(response)["data"]
    samples = [data] if data["resultType"] == "scalar" else data["result"]
    pairs = [data["result"] if sample is data else sample["value"] for sample in samples]
    return [value for value in (float(text) for _, text in pairs) if value == value]


def without_data(
    url: str, gpu: bool = False, long: bool = False, tls: bool = False
) -> list[Expression]:
    """The expressions that return nothing; what needs a GPU is asked for only with `gpu`, what
    needs sequences that are computed in slices only with `long`, and what needs certificates and
    tokens only with `tls`."""
    expressions = [*dashboard_expressions(), *recorded_expressions()]
    asked = [
        e
        for e in expressions
        if (gpu or not e.needs_a_gpu)
        and (long or not e.needs_long_sequences)
        and (tls or not e.needs_files)
    ]
    return [expression for expression in asked if not query(url, expression.text)]


def _complaints(url: str, gpu: bool, long: bool, tls: bool) -> list[str]:
    try:
        missing = without_data(url, gpu, long, tls)
    except OSError as error:  # it may not have started yet
        return [f"{url}: {error}"]
    return [f"no data for {expression.owner}: {expression.text}" for expression in missing]


def main() -> int:
    parser = argparse.ArgumentParser(description="Asks for every expression of the dashboard.")
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("--wait-seconds", type=float, default=0, help="until all return data")
    parser.add_argument("--gpu", action="store_true", help="ask for the GPU's metrics too")
    parser.add_argument("--long", action="store_true", help="long sequences have been sent")
    parser.add_argument("--tls", action="store_true", help="the server has TLS and tokens")
    arguments = parser.parse_args()
    ends_at = time.monotonic() + arguments.wait_seconds
    asked = (arguments.gpu, arguments.long, arguments.tls)
    while complaints := _complaints(arguments.url, *asked):
        if time.monotonic() >= ends_at:
            print("\n".join(complaints), file=sys.stderr)
            return 1
        time.sleep(POLL_SECONDS)
    print("every expression returns data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
