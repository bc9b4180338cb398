"""The page at `/`: what the server is, its state, its models, and where the rest is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.metadata import version

from ..summary import ServerSummary

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>bilstm-server: {state}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 48rem }}
table {{ border-collapse: collapse }}
td, th {{ border-bottom: 1px solid #ccc; padding: 0.2rem 1.5rem 0.2rem 0; text-align: left }}
</style>
</head>
<body>
<h1>bilstm-server {version}</h1>
<p>State: <strong>{state}</strong></p>
<table>
<tr><th>Model</th><th>Version</th><th>Sizes</th></tr>
{models}
</table>
<p>{links}</p>
</body>
</html>
"""


def page(summary: ServerSummary, links: Sequence[str]) -> str:
    """The page in HTML, with `links` to other paths."""
    models = "".join(
        f"<tr><td>{escape(m.name)}</td><td>{escape(m.version)}</td><td>{escape(m.sizes)}</td></tr>"
        for m in summary.models
    )
    return _PAGE.format(
        version=escape(version("bilstm")),
        state=escape(summary.state),
        models=models or '<tr><td colspan="3">none yet</td></tr>',
        links=" ".join(f'<a href="{path}">{path}</a>' for path in links),
    )
