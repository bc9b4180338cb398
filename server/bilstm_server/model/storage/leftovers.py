"""Where the tensors of a checkpoint that are not taken may stand in its module: before the LSTM,
whose states would be others without them, or behind it.

Judges by shapes alone, and in doubt says that they may: names are anyone's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from .first_format import PlainConfig

_RECURRENT = ("weight_hh_l0", "weight_hh")  # of a layer, and of a cell


def computing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without counters (`num_batches_tracked`, `step`), which no result depends on."""
    return {
        key: tensor
        for key, tensor in tensors.items()
        if tensor.dim() > 0 or tensor.is_floating_point() or tensor.is_complex()
    }


def perhaps_before(tensors: Mapping[str, Tensor], config: PlainConfig) -> list[str]:
    """The names of the tensors whose modules may compute the LSTM's input or its initial states."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in computing(tensors).items():
        module, dot, name = key.rpartition(".")
        modules.setdefault(module if dot else key, {})[name] = tensor
    found = [module for module, own in modules.items() if _may_precede(own, config)]
    return [key for key in tensors if key in found or key.rpartition(".")[0] in found]


def _may_precede(module: Mapping[str, Tensor], config: PlainConfig) -> bool:
    """Judge one module. What ends in the LSTM's input has its width in some shape; a convolution's
    channels may be joined to it, and single numbers may scale it.
    """
    tensors = module.values()
    return (
        any(config.input_size in tensor.shape or tensor.dim() > 2 for tensor in tensors)
        or (module.keys() == {"weight"} and module["weight"].dim() == 2)  # an embedding's, perhaps
        or all(tensor.numel() == 1 for tensor in tensors)
        or config.input_size in _recurrent_widths(module)
        or any(_may_be_states(tensor, config) for tensor in tensors)
    )


def _recurrent_widths(module: Mapping[str, Tensor]) -> Iterable[int]:
    """The width of another recurrence's output, by the matrix that reads its state."""
    for name in _RECURRENT:
        if name in module and module[name].dim() == 2:
            directions = 2 if f"{name}_reverse" in module else 1
            yield directions * module[name].shape[1]


def _may_be_states(tensor: Tensor, config: PlainConfig) -> bool:
    width = tensor.shape[-1] if tensor.dim() else 0
    widths = (config.state_size, config.hidden_size)
    return width in widths and tensor.numel() == config.state_rows * width
