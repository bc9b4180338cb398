"""How the CPU kernel is compiled, for this CPU and for others, and what is said where it
can't be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bilstm_server.cli import main as cli
from bilstm_server.model.kernels.cpu import build, kernel
from bilstm_server.model.kernels.cpu.build import BuildError, Variant
from tests.model.kernels.cpu.compilers import knows
from tests.model.kernels.cpu.fastest import fastest, needs_avx2


@pytest.fixture
def compiler(
    tmp_path: Path, compiled: Callable[[Variant], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The script that $CXX names. It counts its calls, and always gives this CPU's library."""
    script = tmp_path / "c++"
    library = compiled(fastest())
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor out; do :; done\ncp {library} "$out"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return script


@needs_avx2
def test_compile(build_folder: Path, compiler: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`compile` compiles the fastest variant, once, prints where it lies, and removes those of
    other versions of it."""
    build_folder.mkdir()
    stale = build_folder / f"cpu-{fastest().name}-0123456789ab.so"
    another = build_folder / "cpu-another-0123456789ab.so"
    stale.touch()
    another.touch()
    for _ in range(2):
        assert cli.main(["compile"]) == 0
        assert capsys.readouterr() == (f"{fastest().library()}\n", "")
    assert set(build_folder.iterdir()) == {fastest().library(), another}
    assert len(compiler.with_name("calls").read_text().splitlines()) == 1


def test_compile_all(
    build_folder: Path, compiler: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compile --all` compiles every variant, for other CPUs than this one too."""
    assert cli.main(["compile", "--all"]) == 0
    libraries = [variant.library() for variant in build.VARIANTS]
    assert capsys.readouterr().out.splitlines() == [str(library) for library in libraries]
    assert set(build_folder.iterdir()) == set(libraries)


@needs_avx2
def test_compiler_that_knows_less(build_folder: Path, compiler: Path) -> None:
    """A compiler that knows no newer instructions compiles the fastest variant that it does."""
    refuse = 'case "$*" in *-mnewest*) echo "error: unknown option" >&2; exit 1;; esac\n'
    lines = compiler.read_text().splitlines(keepends=True)
    compiler.write_text("".join([lines[0], refuse, *lines[1:]]))
    newest = Variant("newest", frozenset(), [], ["-mnewest"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "VARIANTS", [newest, *build.VARIANTS])
        assert kernel.compile_fastest()[0] == fastest().library()


@pytest.mark.parametrize("variant", build.VARIANTS, ids=lambda variant: variant.name)
def test_own_instructions(variant: Variant, tmp_path: Path) -> None:
    """Every variant compiles with its own instructions, whatever this CPU has."""
    try:
        compiler = build.find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    if not knows(compiler, variant):
        pytest.skip(f"{compiler[0]} does not know {variant.name}")
    build.compile_library([*variant.command(compiler), "-fsyntax-only"], tmp_path / "none")


def test_compile_some(
    build_folder: Path, compiler: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compile --all` leaves out what the compiler does not know, and says so."""
    refuse = 'case "$*" in *-mamx*) echo "error: unknown option" >&2; exit 1;; esac\n'
    lines = compiler.read_text().splitlines(keepends=True)
    compiler.write_text("".join([lines[0], refuse, *lines[1:]]))
    assert cli.main(["compile", "--all"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [str(v.library()) for v in build.VARIANTS[1:]]
    assert "amx" in output.err
    assert "unknown option" in output.err


@needs_avx2
def test_variant_that_is_wrong_here(build_folder: Path, compiler: Path) -> None:
    """A variant that compiles, but does not compute rightly on this CPU, gives way to the next."""
    broken = 'case "$*" in *-mbroken*) for out; do :; done; echo no >"$out"; exit;; esac\n'
    lines = compiler.read_text().splitlines(keepends=True)
    compiler.write_text("".join([lines[0], broken, *lines[1:]]))
    newest = Variant("newest", frozenset(), [], ["-mbroken"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "VARIANTS", [newest, *build.VARIANTS])
        assert kernel.compile_fastest()[0] == fastest().library()


@needs_avx2
def test_compiler_with_arguments(
    build_folder: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$CXX may be a command with arguments of its own, as with a compiler cache."""
    monkeypatch.setenv("CXX", f"{compiler} --own 'an argument'")
    assert kernel.compile_fastest()[0] == fastest().library()
    assert "--own an argument" in compiler.with_name("calls").read_text()


def fail_by_name(compiler: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("CXX", "no-such-compiler")


def fail_by_path(compiler: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("CXX")
    patch.setenv("PATH", str(compiler.parent / "nothing"))


def fail_by_compiler(compiler: Path, patch: pytest.MonkeyPatch) -> None:
    compiler.write_text("#!/bin/sh\necho 'In file x:\nx.h:1: error: no such thing' >&2\nexit 1\n")


def fail_by_folder(compiler: Path, patch: pytest.MonkeyPatch) -> None:
    build._COMPILED.write_text("a file")


@needs_avx2
@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (fail_by_name, "no C++ compiler: CXX is 'no-such-compiler', which is not there"),
        (fail_by_path, "no C++ compiler: install g++ (Debian: apt-get install g++) or set CXX"),
        (fail_by_compiler, "{compiler} failed: x.h:1: error: no such thing"),
        (fail_by_folder, "cannot write to {build_folder}: File exists"),
    ],
)
def test_cannot_compile(
    fail: Callable[[Path, pytest.MonkeyPatch], None],
    reason: str,
    build_folder: Path,
    compiler: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`compile` that fails is one line that says why, exit code 1, and leaves nothing behind."""
    fail(compiler, monkeypatch)
    assert cli.main(["compile"]) == 1
    reason = reason.format(compiler=compiler, build_folder=build_folder)
    assert capsys.readouterr() == ("", f"bilstm-server: the CPU kernel: {reason}\n")
    assert not build_folder.is_dir() or not list(build_folder.iterdir())
