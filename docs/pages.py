"""The site's hook: README.md and CONTRIBUTING.md are pages of it, and links that leave it are cut.

Pages link to files of the repository too, for those who read them there. The site has no such
files: the link becomes its text, and fails the build where nothing is at its end.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OUTSIDE = {"index.md": ROOT / "README.md", "contributing.md": ROOT / "CONTRIBUTING.md"}
_LINK = re.compile(r"(!?\[(?:[^][]|\[[^]]*\])*\])\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose sources lie outside of docs/."""
    for uri, source in OUTSIDE.items():
        files.append(File.generated(config, uri, content=source.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn each link, which is relative to the page's source, into the site's own."""
    uri = page.file.src_uri
    source = OUTSIDE.get(uri, DOCS / uri)

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        found = (source.parent / target).resolve()
        if files.get_file_from_path(own := _uri(found)):
            return f"{text}({posixpath.relpath(own, posixpath.dirname(uri) or '.')}{anchor})"
        if not found.exists():
            raise PluginError(f"{source.name}: the link to {target} leads nowhere")
        return text[1:-1]

    return _LINK.sub(link, markdown)


def _uri(path: Path) -> str:
    """A file's place in the site, whether it has it or not."""
    outside = {source: uri for uri, source in OUTSIDE.items()}
    if path in outside:
        return outside[path]
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else ""
