"""When the gpu kernel is there, and what is said where it can't be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bilstm_server.errors import ModelError
from bilstm_server.model.kernels import Choice, KernelUnavailable, choose_kernel
from bilstm_server.model.kernels.interface import DirectionWeights, Layer
from bilstm_server.model.kernels.reference import ReferenceLayer
from bilstm_server.serving.loading import load_engine
from tests.support.servers import settings, write_model

pytest.importorskip("triton", reason="needs Triton")

from bilstm_server.model.kernels.gpu import kernel as gpu
from bilstm_server.model.kernels.gpu.plans import Processor

GPU = torch.device("cuda")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if there were one: what is asked of torch and Triton before anything is run on it."""
    properties = {"multiprocessor_count": 132, "max_shared_mem": 227 * 1024}
    utils = SimpleNamespace(get_device_properties=lambda _: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "some GPU")
    monkeypatch.setattr(gpu, "driver", SimpleNamespace(active=SimpleNamespace(utils=utils)))
    gpu.load.cache_clear()
    return monkeypatch


def refused(name: str = "gpu") -> str:
    gpu.load.cache_clear()
    with pytest.raises(KernelUnavailable) as error:
        choose_kernel(name, GPU)
    return str(error.value)


def test_chosen(hopper: pytest.MonkeyPatch) -> None:
    """`auto` is the gpu kernel on CUDA, and knows what plans must fit in."""
    choice = choose_kernel("auto", GPU)
    assert (choice.name, choice.fallback_reason) == ("gpu", None)
    assert isinstance(choice.kernel, gpu.GpuKernel)
    assert choice.kernel.processor == Processor(132, 227 * 1024)


def test_on_a_cpu() -> None:
    """On a CPU the gpu kernel is refused."""
    with pytest.raises(KernelUnavailable, match="the gpu kernel can't run on cpu"):
        choose_kernel("gpu", torch.device("cpu"))


def test_without_triton(hopper: pytest.MonkeyPatch) -> None:
    """Without Triton, the refusal says what brings it."""
    hopper.setitem(sys.modules, "bilstm_server.model.kernels.gpu.kernel", None)
    hopper.delattr("bilstm_server.model.kernels.gpu.kernel")
    assert refused().startswith("the gpu kernel needs Triton, which comes with torch for CUDA")


def test_torch_without_cuda(hopper: pytest.MonkeyPatch) -> None:
    """A torch without CUDA is refused as such."""
    hopper.setattr(torch.version, "cuda", None)
    assert refused() == "the gpu kernel needs a torch with CUDA"


def test_old_gpu(hopper: pytest.MonkeyPatch) -> None:
    """A GPU that is too old is refused with both compute capabilities."""
    hopper.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert refused() == ("the gpu kernel needs compute capability 8.0 or more; some GPU has 7.5")


def test_without_a_compiler(hopper: pytest.MonkeyPatch) -> None:
    """What Triton says, and what it needs; `auto` goes on with the reference, and says why."""

    class Driver:
        @property
        def active(self) -> Any:
            raise RuntimeError("Failed to find C compiler")

    hopper.setattr(gpu, "driver", Driver())
    message = refused()
    assert "Failed to find C compiler" in message
    assert "it needs gcc or clang (or CC to name one), Python's headers" in message
    assert "TRITON_CACHE_DIR" in message
    choice = choose_kernel("auto", GPU)
    assert (choice.name, choice.kernel, choice.fallback_reason) == (
        "reference",
        ReferenceLayer,
        message,
    )


def directions(**changes: Any) -> list[DirectionWeights]:
    weights: dict[str, Any] = {"w_ih": torch.zeros(16, 3), "w_hh": torch.zeros(16, 4)}
    fields: dict[str, Any] = dict.fromkeys(("b_ih", "b_hh", "w_hr")) | weights | changes
    return [DirectionWeights(**fields)]


def no_plan(*_: Any) -> Any:
    raise KernelUnavailable("there is no plan")


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (directions(w_hr=torch.zeros(2, 4)), "the gpu kernel has no projection (proj_size)"),
        (
            directions(w_hh=torch.zeros(16, 4, dtype=torch.float64)),
            "the gpu kernel does not compute in torch.float64",
        ),
        (directions(), "there is no plan"),
    ],
    ids=["projection", "float64", "no plan"],
)
def test_left_to_the_reference(
    hopper: pytest.MonkeyPatch, weights: list[DirectionWeights], reason: str
) -> None:
    """A layer that it has no plan for, the reference runs, and knows why."""
    hopper.setattr(gpu, "Tuner", no_plan)
    layer = choose_kernel("gpu", GPU).kernel(weights)
    assert (layer.kernel, layer.fallback_reason) == ("reference", reason)


def test_tables_are_made_once(hopper: pytest.MonkeyPatch) -> None:
    """Layers of one shape share what was measured."""
    made: list[Any] = []

    def tuner(shape: Any, processor: Any, device: Any) -> Any:
        made.append((shape, processor, device))
        return SimpleNamespace(table=lambda: SimpleNamespace(costs={}, fallback_reason=None))

    hopper.setattr(gpu, "Tuner", tuner)
    kernel = choose_kernel("gpu", GPU).kernel
    for weights in (directions(), directions(), directions(w_ih=torch.zeros(16, 7))):
        assert kernel(weights).kernel == "gpu"
    assert len(made) == 1
    assert kernel(directions(w_hh=torch.zeros(16, 5))).kernel == "gpu"
    assert len(made) == 2


def test_kernel_that_is_asked_for(tmp_path: Path) -> None:
    """A server that is told to use it, and can't, does not start."""
    write_model(tmp_path)
    with pytest.raises(ModelError, match="--kernel gpu: the gpu kernel can't run on cpu"):
        load_engine(tmp_path, settings(kernel="gpu"))


class Unfit:
    """A kernel that leaves every layer to the reference."""

    name = "gpu"

    def __call__(self, directions: Sequence[DirectionWeights]) -> Layer:
        return ReferenceLayer(directions, "no projection")

    linear = staticmethod(ReferenceLayer.linear)
    viterbi = staticmethod(ReferenceLayer.viterbi)


def test_layer_that_it_has_no_plan_for(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where it is a model's layers that it can't run; `auto` goes on without it."""

    def choose(name: str, device: torch.device) -> Any:
        return Choice(Unfit())

    monkeypatch.setattr("bilstm_server.engine.engine.choose_kernel", choose)
    write_model(tmp_path, proj_size=2)
    with pytest.raises(ModelError, match="--kernel gpu: no projection"):
        load_engine(tmp_path, settings(kernel="gpu"))
    engine = load_engine(tmp_path, settings())
    assert (engine.kernel, engine.fallback_reason) == ("reference", "no projection")
