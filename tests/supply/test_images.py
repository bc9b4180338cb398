"""The digests of images: `make pin-images`."""

from __future__ import annotations

from pathlib import Path

from supply.images import FILES, pin, problems

OLD, NEW = (f"sha256:{digit * 64}" for digit in "12")


def test_every_image_has_a_digest() -> None:
    """Those of the Dockerfile and of docker-compose.yml, and an image that both name has one."""
    texts = [path.read_text("utf-8") for path in FILES]
    assert problems(texts) == []
    named = [line for text in texts for line in text.splitlines() if "@sha256:" in line]
    assert len(named) == 4  # python twice, Prometheus, Grafana


def test_what_has_none() -> None:
    """An image with a tag alone, or with two digests, is named."""
    assert problems(["ARG BASE=python:3-slim\n"]) == [
        "python:3-slim has no digest: run `make pin-images`"
    ]
    assert problems([f"ARG BASE=python:3@{OLD}", f"BASE: ${{BASE:-python:3@{NEW}}}"]) == [
        "python:3 has several digests: run `make pin-images`"
    ]


def test_pinning(tmp_path: Path) -> None:
    """Every image gets its tag's digest, whether it had another or none; the rest stays."""
    dockerfile, compose = tmp_path / "Dockerfile", tmp_path / "docker-compose.yml"
    dockerfile.write_text(f"ARG BASE=python:3-slim@{OLD}\nFROM ${{BASE}} AS x\n")
    compose.write_text("BASE: ${BASE:-python:3-slim}\nimage: ${THIS_IMAGE:-a/b.c:v1}\n")
    asked: list[str] = []

    def digest_of(tag: str) -> str:
        asked.append(tag)
        return NEW

    pin((dockerfile, compose), digest_of)
    assert asked == ["a/b.c:v1", "python:3-slim"]
    assert dockerfile.read_text() == f"ARG BASE=python:3-slim@{NEW}\nFROM ${{BASE}} AS x\n"
    assert compose.read_text() == (
        f"BASE: ${{BASE:-python:3-slim@{NEW}}}\nimage: ${{THIS_IMAGE:-a/b.c:v1@{NEW}}}\n"
    )
