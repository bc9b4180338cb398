"""How the CPU kernel is compiled, found, refused, copied and forked; its numbers are in
test_cpu_kernel.

No test touches the folder where `make setup` compiles: other processes use it.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import knows, start_error
from lstms import draw_states, pair

import bilstm_server
from bilstm_server.cli import main as cli
from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels import KernelUnavailable
from bilstm_server.model.kernels import choose_kernel as choose
from bilstm_server.model.kernels.cpu import build, kernel
from bilstm_server.model.kernels.cpu.build import BuildError, Variant
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from bilstm_server.model.kernels.reference import ReferenceLayer
from bilstm_server.testing import server_process

CPU = torch.device("cpu")
FASTEST = next(iter(build.runnable()), None)

needs_avx2 = pytest.mark.skipif(FASTEST is None, reason=build.NO_VARIANT)


def fastest() -> Variant:
    assert FASTEST is not None
    return FASTEST


def assert_refused(reason: str) -> None:
    """`cpu` raises with the reason, and `auto` is the reference kernel, with the same reason."""
    with pytest.raises(KernelUnavailable) as refused:
        choose("cpu", CPU)
    assert reason in str(refused.value)
    choice = choose("auto", CPU)
    assert (choice.name, choice.kernel) == ("reference", ReferenceLayer)
    assert choice.fallback_reason == str(refused.value)


# -- finding and loading ----------------------------------------------------------------------


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


# -- compiling --------------------------------------------------------------------------------


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


# -- serving ----------------------------------------------------------------------------------


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
    """With --kernel cpu it ends with one line that says which command to run, and code 1."""
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


# -- copies and processes ---------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_copies(dtype: torch.dtype, duplicate: Callable[[BiLSTM], BiLSTM], installed: Path) -> None:
    """A deep or pickled copy of a frozen module gives the same bits, and outlives the first."""
    _, ours = pair(dtype, input_size=9, hidden_size=21, num_layers=2, proj_size=10)
    x, hx = torch.randn(12, 9, dtype=dtype), draw_states(ours, 3)
    y, states = ours.freeze(choose("cpu", CPU).kernel).forward_ragged(x, [3, 7, 2], hx)
    theirs = duplicate(ours)
    del ours
    actual, actual_states = theirs.forward_ragged(x, [3, 7, 2], hx)
    assert torch.equal(actual, y)
    assert all(map(torch.equal, actual_states, states))


def test_copy_where_none_is_compiled(installed: Path) -> None:
    """A pickled frozen module is loaded elsewhere too: there the reference kernel runs it."""
    _, ours = pair(torch.float32)
    x = torch.randn(12, 3)
    y, _ = ours.freeze(choose("cpu", CPU).kernel).forward_ragged(x, [3, 7, 2])
    pickled = pickle.dumps(ours)
    installed.unlink()
    kernel.load.cache_clear()
    torch.testing.assert_close(pickle.loads(pickled).forward_ragged(x, [3, 7, 2])[0], y)


def run_script(script: str, library: Path) -> None:
    """Run it in a process of its own, after what every script begins with."""
    begin = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from bilstm_server.model.bilstm import BiLSTM\n"
        "from bilstm_server.model.kernels.cpu.kernel import CpuKernel\n"
        "kernel = CpuKernel(Path(sys.argv[1]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", begin + script, str(library)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr


def test_forked_child(installed: Path) -> None:
    """A child that is forked after threads shared the work, which it does not have, computes the
    same bits, and so does its parent afterwards."""
    script = """
torch.set_num_threads(3)
lstm = BiLSTM(24, 40).freeze(kernel)
lengths = [5] * 60
x = torch.randn(300, 24)
run = lambda: lstm.forward_ragged(x, lengths)[0].numpy().tobytes()
expected = run()
child = os.fork()
if child == 0:
    os._exit(0 if run() == run() == expected else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert run() == expected
"""
    run_script(script, installed)


def test_no_memory(installed: Path) -> None:
    """Without memory for its buffers a layer raises MemoryError, and runs once there is some."""
    script = """
lstm = BiLSTM(1, 2**18, proj_size=1, bidirectional=False).freeze(kernel)
x = torch.randn(3, 1)
size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, resource.RLIM_INFINITY))
try:
    lstm.forward_ragged(x, [3])
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert lstm.forward_ragged(x, [3])[0].isfinite().all()
else:
    sys.exit("it had memory enough")
"""
    run_script(script, installed)
