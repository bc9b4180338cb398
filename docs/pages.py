"""The site's hook: pages whose sources lie outside of docs/, and links that lead to them.

README.md, CONTRIBUTING.md and CHANGELOG.md are pages of the site. So is each file of the repository
that a page links to: its text, in a page below files/. A link to a folder becomes its own text. A
link with nothing at its end fails the build.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NAMED = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"(!?\[(?:[^][]|\[[^]]*\])*\])\(([^)#\s]+)(#[^)\s]*)?\)")
_LANGUAGES = {".cpp": "cpp", ".json": "json", ".proto": "protobuf", ".py": "python", ".yml": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose sources lie outside of docs/."""
    for source in {*NAMED, *_linked_files()}:
        files.append(File.generated(config, _uri(source), content=_page(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn each link, which is relative to the page's source, into the site's own."""
    uri = page.file.src_uri
    source = next((path for path in (*NAMED, *_linked_files()) if _uri(path) == uri), DOCS / uri)

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

    return _LINK.sub(link, markdown) if source.suffix == ".md" else markdown


def _linked_files() -> Iterator[Path]:
    """The repository's files outside of docs/ that pages link to, but for those that are named."""
    for page in (*NAMED, *DOCS.rglob("*.md")):
        for _, target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path.is_file() and path not in NAMED and not path.is_relative_to(DOCS):
                yield path


def _uri(path: Path) -> str:
    """A file's place in the site, whether it has it or not."""
    if path in NAMED:
        return NAMED[path]
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"files/{path.relative_to(ROOT).as_posix()}".removesuffix(".md") + ".md"


def _page(source: Path) -> str:
    """A page of Markdown, or a file's text as one; searching does not find the latter."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".md":
        return text
    language = _LANGUAGES.get(source.suffix, "text")
    title = source.relative_to(ROOT).as_posix()
    head = f"---\nsearch: {{exclude: true}}\n---\n# {title}\n"
    return f"{head}\n``````{language}\n{text}\n``````\n"
