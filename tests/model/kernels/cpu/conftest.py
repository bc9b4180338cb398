"""The CPU kernel, compiled anew in every variant: in a temporary place, since other processes use
the folder where `make setup` compiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bilstm_server.model.kernels.cpu import build, kernel
from bilstm_server.model.kernels.cpu.build import VARIANTS, BuildError, Variant
from tests.model.kernels.cpu.compilers import knows

TILES = ["-I", str(Path(__file__).parent)]  # emulated_tiles.h, where there are none
SANITIZERS = ["-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


@pytest.fixture(scope="session")
def compiled(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Variant], Path]]:
    """Gives the library of a variant, compiled in a temporary place.

    Of instructions that this CPU or compiler lacks, portable code does the work: layouts, tails
    and tiles are the variant's all the same.
    """
    folder = tmp_path_factory.mktemp("kernels")
    more = SANITIZERS if pytestconfig.getoption("--sanitize") else []
    try:
        compiler = build.find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    if not build.runnable():
        pytest.skip(build.NO_VARIANT)

    def compile_variant(variant: Variant) -> Path:
        library = folder / f"{variant.name}.so"
        if variant not in build.runnable() or not knows(compiler, variant):
            variant = dataclasses.replace(variant, flags=VARIANTS[-1].flags)
        build.compile_library([*variant.command(compiler), *TILES, *more], library)
        return library

    with ThreadPoolExecutor(2) as threads:  # several seconds each, while the tests run
        libraries = {v.name: threads.submit(compile_variant, v) for v in reversed(VARIANTS)}
        yield lambda variant: libraries[variant.name].result()


@pytest.fixture
def build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in place of the one where compiled kernels lie."""
    folder = tmp_path / "build"
    monkeypatch.setattr(build, "_COMPILED", folder)
    kernel.load.cache_clear()
    yield folder
    kernel.load.cache_clear()


@pytest.fixture
def installed(build_folder: Path, compiled: Callable[[Variant], Path]) -> Path:
    """The fastest kernel that this CPU runs, where it is looked for."""
    fastest = build.runnable()[0]
    build_folder.mkdir()
    fastest.library().symlink_to(compiled(fastest))
    return fastest.library()
