"""Writes from the code what docs/ has of it: settings, metrics, layers and config.schema.json.

python docs/tables.py [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from inspect import getdoc
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from pydantic.fields import FieldInfo

from bilstm_server.metrics import Metrics
from bilstm_server.metrics.tallies import Family
from bilstm_server.model.config import ModelConfig
from bilstm_server.model.layers import LAYER_TYPES
from bilstm_server.model.layers.functions import FUNCTIONS
from bilstm_server.model.layers.interface import LayerConfig
from bilstm_server.settings import Settings

DOCS = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    tables = {"settings": _settings(), "metrics": _metrics(), "layers": _layers()}
    stale = [
        path
        for name, table in tables.items()
        if not _is_current(path := DOCS / f"{name}.md", name, table, write=not check)
    ]
    schema = DOCS / "config.schema.json"
    if not _has_text(schema, _config_schema(), write=not check):
        stale.append(schema)
    if stale and check:
        names = " and ".join(f"docs/{path.name}" for path in stale)
        print(f"{names} are out of date: run docs/tables.py", file=sys.stderr)
        return 1
    return 0


def _is_current(path: Path, name: str, table: str, *, write: bool) -> bool:
    """Whether the page has this table; if it has not, `write` puts it there."""
    text = _replace(path.read_text(encoding="utf-8"), name, table)
    return _has_text(path, text, write=write)


def _has_text(path: Path, text: str, *, write: bool) -> bool:
    """Whether this is what the file has; if it is not, `write` puts it there."""
    is_current = path.exists() and path.read_text(encoding="utf-8") == text
    if write and not is_current:
        path.write_text(text, encoding="utf-8")
    return is_current


def _replace(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name}: made by docs/tables.py -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"docs/{name}.md has no place for its table")
    return pattern.sub(lambda _: f"{begin}\n{table}{end}", text)


def _settings() -> str:
    rows = ["| Flag | Variable | Default | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in ((), "", None) else f"`{_written(field.default)}`"
        flag = f"`--{name.replace('_', '-')}`"
        rows.append(f"| {flag} | `BILSTM_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _written(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _metrics() -> str:
    rows = ["| Metric | Type | Labels | Meaning |", "| --- | --- | --- | --- |"]
    metrics = Metrics()
    for subject in (metrics.rpcs, metrics.models, metrics.security, metrics, metrics.devices):
        values = vars(subject).values()
        rows += [_metric(v) for v in values if isinstance(v, MetricWrapperBase | Family)]
    return "\n".join(rows) + "\n"


def _metric(value: MetricWrapperBase | Family[Any]) -> str:
    (family,) = value.describe()
    labelnames = value.labelnames if isinstance(value, Family) else value._labelnames
    suffix = "_total" if family.type == "counter" else ""
    labels = ", ".join(f"`{label}`" for label in labelnames)
    return f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |"


def _layers() -> str:
    rows = ["| Type | What it is | Shapes | Fields |", "| --- | --- | --- | --- |"]
    for layer in sorted(LAYER_TYPES, key=_type_of):
        words = [" ".join((getdoc(text) or "").split()) for text in (layer, layer.gives)]
        own = layer.model_fields.keys() - LayerConfig.model_fields.keys() - {"type"}
        fields = [_layer_field(*item) for item in layer.model_fields.items() if item[0] in own]
        rows.append(f"| `{_type_of(layer)}` | {words[0]} | {words[1]} | {', '.join(fields)} |")
    functions = ", ".join(f"`{name}`" for name in sorted(FUNCTIONS))
    return "\n".join([*rows, "", f"The functions of `activation` are {functions}."]) + "\n"


def _type_of(layer: type[LayerConfig]) -> str:
    return str(layer.model_fields["type"].default)


def _layer_field(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return f"`{name}`"
    return f"`{name}` = {json.dumps(field.default)}"


def _config_schema() -> str:
    schema = ModelConfig.model_json_schema()
    # Left out they have a meaning of their own: the first format, and no layer at all.
    schema["required"].append("format")
    for definition in schema["$defs"].values():
        if "type" in definition["properties"]:
            definition["required"].append("type")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
