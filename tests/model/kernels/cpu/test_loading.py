"""How the CPU kernel is found, refused and served. No test touches the folder where `make setup`
compiles: other processes use it.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import bilstm_server
from bilstm_server.model.kernels import KernelUnavailable
from bilstm_server.model.kernels import choose_kernel as choose
from bilstm_server.model.kernels.cpu import build, kernel
from bilstm_server.model.kernels.cpu.build import BuildError, Variant
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from bilstm_server.model.kernels.reference import ReferenceLayer
from bilstm_server.testing import server_process
from tests.model.kernels.cpu.fastest import CPU, fastest, needs_avx2
from tests.support.servers import start_error


def assert_refused(reason: str) -> None:
    """`cpu` raises with the reason, and `auto` is the reference kernel, with the same reason."""
    with pytest.raises(KernelUnavailable) as refused:
        choose("cpu", CPU)
    assert reason in str(refused.value)
    choice = choose("auto", CPU)
    assert (choice.name, choice.kernel) == ("reference", ReferenceLayer)
    assert choice.fallback_reason == str(refused.value)


# -- finding and loading -------------------------------------------------------------------------


def test_chosen(installed: Path) -> None:
    """`auto` is the compiled kernel where there is one, and nothing faster was missed."""
    choice = choose("auto", CPU)
    assert (choice.name, choice.fallback_reason) == ("cpu", None)
    assert choice == choose("cpu", CPU)
    assert isinstance(choice.kernel, CpuKernel)


def test_other_device() -> None:
    """On another device `cpu` is refused."""
    with pytest.raises(KernelUnavailable, match="can't run on cuda"):
        choose("cpu", torch.device("cuda"))


def test_unknown_kernel() -> None:
    """A name that is no kernel raises a ValueError that lists those that are."""
    with pytest.raises(ValueError, match="'tpu'; there are: auto, gpu, cpu, reference"):
        choose("tpu", CPU)


@needs_avx2
def test_not_compiled(build_folder: Path) -> None:
    """Without a library, the reason says which command makes one."""
    assert_refused("not compiled: run `bilstm-server compile`")


def test_of_another_version(installed: Path) -> None:
    """A library of another digest, though it would load, is never loaded."""
    installed.rename(installed.with_name(f"cpu-{fastest().name}-0123456789ab.so"))
    assert_refused("not compiled: run `bilstm-server compile`")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the kernel's sources, in their place."""
    folder = tmp_path / "sources"
    shutil.copytree(build._HERE, folder, ignore=shutil.ignore_patterns("compiled", "__*"))
    monkeypatch.setattr(build, "_HERE", folder)
    monkeypatch.setattr(build, "_SOURCE", folder / "cpu.cpp")
    build._digest.cache_clear()
    yield folder
    build._digest.cache_clear()


def test_digest(sources: Path) -> None:
    """A library's name changes with every source file, with the variant and with its flags."""
    variant = build.VARIANTS[0]
    names = {variant.library() for variant in build.VARIANTS}
    assert len(names) == len(build.VARIANTS)
    assert variant.library() in names
    files = [path for path in sources.iterdir() if path.suffix in (".cpp", ".h")]
    assert len(files) > 3
    for path in files:
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        build._digest.cache_clear()
        assert variant.library() not in names
        names.add(variant.library())
    assert dataclasses.replace(variant, flags=["-g"]).library() not in names
    assert dataclasses.replace(variant, macros=["A=1"]).library() not in names


@needs_avx2
@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF\x02\x01\x01" + bytes(99)])
def test_corrupted(content: bytes, build_folder: Path) -> None:
    """A file that is no library is refused, and the reason names it and says how to replace it."""
    build_folder.mkdir()
    fastest().library().write_bytes(content)
    assert_refused(f"the cpu kernel does not load: {fastest().library()}")
    assert_refused("; remove it and run `bilstm-server compile`")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "does not load"), (None, "for better is not compiled")]
)
def test_next_variant(
    content: bytes | None, reason: str, build_folder: Path, compiled: Callable[[Variant], Path]
) -> None:
    """Where the fastest variant is missing or does not load, the next one is used, and says so."""
    build_folder.mkdir()
    better = Variant("better", frozenset(), [], [])
    if content is not None:
        better.library().write_bytes(content)
    fastest().library().symlink_to(compiled(fastest()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "VARIANTS", [better, *build.VARIANTS])
        choice = choose("auto", CPU)
    assert (choice.name, choice.instructions) == ("cpu", fastest().name)
    assert reason in str(choice.fallback_reason)


def test_other_cpu(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without AVX2 nothing is loaded or compiled, and the reason names what it lacks."""
    monkeypatch.setattr(build, "cpu_flags", lambda: frozenset({"sse2", "fma"}))
    assert_refused("needs an x86-64 CPU with AVX2 and FMA")
    with pytest.raises(BuildError, match="needs an x86-64 CPU with AVX2 and FMA"):
        kernel.compile_fastest()


@needs_avx2
def test_wrong_results(build_folder: Path) -> None:
    """A kernel that computes wrong results is refused, and the reason says so."""
    build_folder.mkdir()
    wrong = ["-O0", "-D__builtin_fmaf(a,b,c)=((a)*(b)-(c))"]
    command = [*fastest().command(build.find_compiler()), *wrong]
    build.compile_library(command, fastest().library())
    assert_refused("computed wrong results in torch.float32")


@needs_avx2
def test_wrong_paths(build_folder: Path, tmp_path: Path) -> None:
    """One that finds other best paths than the reference is refused, and the reason says so."""
    build_folder.mkdir()
    *command, source = fastest().command(build.find_compiler())
    wrong = shutil.copytree(Path(source).parent, tmp_path / "wrong")
    header = (wrong / "viterbi.h").read_text(encoding="utf-8")
    assert "other <= best" in header
    (wrong / "viterbi.h").write_text(header.replace("other <= best", "other >= best"))
    build.compile_library([*command, str(wrong / "cpu.cpp")], fastest().library())
    assert_refused("found wrong paths in torch.float32")


# -- serving -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def uncompiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the server's package in which no kernel is compiled; for PYTHONPATH."""
    package = Path(bilstm_server.__file__).parent
    folder = tmp_path_factory.mktemp("uncompiled")
    skipped = shutil.ignore_patterns("compiled", "__pycache__")
    shutil.copytree(package, folder / package.name, ignore=skipped)
    return folder


@needs_avx2
def test_serve_uncompiled(
    uncompiled: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --kernel auto, a server without a compiled kernel warns once, with the reason, and
    serves with the reference kernel."""
    monkeypatch.setenv("PYTHONPATH", str(uncompiled))
    with server_process(f"--model=small={model_folder}", "--kernel=auto") as server:
        (warning,) = (event for event in server.log if event["level"] == "warning")
        assert (warning["event"], warning["kernel"]) == ("slower kernel", "reference")
        assert "run `bilstm-server compile`" in warning["reason"]
        (info,) = (name for name in server.metrics() if name.startswith("bilstm_model_info"))
        assert 'kernel="reference"' in info


@needs_avx2
def test_serve_cpu_uncompiled(
    uncompiled: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --kernel cpu a server ends with one line that says which command to run, and code 1."""
    monkeypatch.setenv("PYTHONPATH", str(uncompiled))
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "bilstm_server", "serve", f"--model=small={model_folder}"),
            *("--kernel=cpu", "--port=0", "--metrics-port=0", "--log-format=json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    reason = f"the cpu kernel for {fastest().name} is not compiled: run `bilstm-server compile`"
    assert f"--kernel cpu: {reason}" in start_error(ended.stderr)
