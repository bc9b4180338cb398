"""docs/licences.md, and which licences may be shipped."""

from __future__ import annotations

import pytest
from packaging.utils import canonicalize_name

from supply.licences import NVIDIA, PAGE, declared, problems


def test_the_table_is_of_what_is_shipped() -> None:
    """Each package is in it, with the licence that it names, and it may be shipped."""
    assert problems(PAGE.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("| tqdm |", "| tqdn |", "docs/licences.md lacks tqdm"),
        ("| tqdm |", "| tqdn |", "tqdn is not shipped"),
        ("MPL-2.0 AND MIT", "MIT", "tqdm says MPL-2.0 AND MIT"),
        (f"{NVIDIA} | cuda", "GPL-3.0-only | cuda", "cuda-toolkit: GPL-3.0-only is not allowed"),
        ("| PSF-2.0 |", f"| {NVIDIA} |", "is not allowed"),
        ("| PSF-2.0 |", "| MIT OR Unheard-Of |", "Unheard-Of is not allowed"),
    ],
)
def test_what_is_not_so(before: str, after: str, problem: str) -> None:
    """A row that is missing, of no package, not what the package says, or not allowed, is named."""
    page = PAGE.read_text("utf-8")
    assert before in page
    assert any(problem in each for each in problems(page.replace(before, after)))


@pytest.mark.parametrize(
    ("expression", "words", "classifiers", "licence"),
    [
        ("MIT OR Apache-2.0", "BSD", (), "MIT OR Apache-2.0"),
        (None, "BSD", ("License :: Other/Proprietary License",), "BSD-3-Clause"),
        (None, "", ("Topic :: Printing", "License :: OSI Approved :: MIT License"), "MIT"),
        (None, "MPL-2.0 AND MIT", (), "MPL-2.0 AND MIT"),
    ],
)
def test_what_a_package_says(
    expression: str | None, words: str, classifiers: tuple[str, ...], licence: str
) -> None:
    """Its expression, else its words, else its classifiers, as SPDX names them."""
    assert declared(canonicalize_name("x"), expression, words, classifiers) == licence


def test_words_that_nobody_has_looked_up() -> None:
    """Are not guessed."""
    with pytest.raises(SystemExit, match=r"x names its licence .'Ask me'.: say in supply/licences"):
        declared(canonicalize_name("x"), None, "Ask me", ())
    with pytest.raises(SystemExit, match="x names its licence"):
        declared(canonicalize_name("x"), None, None, ())
