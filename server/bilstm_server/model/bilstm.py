"""`BiLSTM`: torch.nn.LSTM's interface over this project's own kernels.

Owns the stack of layers, the packed weights and the input forms; the parameters are in
`parameters`, the equations in `kernels/`. No nn.LSTM, `_VF.lstm`, cuDNN or oneDNN recurrence is
called here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor
from torch._C import _is_tracing
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from .eager import eager
from .frozen import Frozen
from .kernels import Kernel, Layer, RaggedBatch, choose_kernel
from .kernels.reference import ReferenceLayer
from .parameters import LstmParameters, run_weight_hooks

States = tuple[Tensor, Tensor]

_FOR_JIT = "torch.export records one shape, and to_torch() gives an nn.LSTM that TorchScript takes"
_NO_TRACE = f"torch.jit.trace would keep this call's lengths; {_FOR_JIT}"
_NO_GRAPH = (
    "torch.compile leaves a BiLSTM out of its graphs, of which it would need one for each length: "
    "leave out fullgraph=True, for torch.export give strict=False, or take to_torch()"
)

# What autocast converts among. It leaves float64 alone.
_AUTOCAST_TYPES = (torch.float32, torch.bfloat16, torch.float16)


class BiLSTM(LstmParameters):
    """A (bidirectional) LSTM: drop-in for `torch.nn.LSTM`, with the same parameters.

    Arguments, parameter names and shapes, initialisation and results are nn.LSTM's, so that a
    state_dict goes either way with `strict=True`; only `bidirectional` defaults to True.
    In the shapes below B is the number of sequences, T their steps, N all steps of a ragged
    batch, D input_size, H hidden_size, P proj_size or H, and K the directions (2, or 1 with
    `bidirectional=False`).
    """

    _frozen: Frozen[BiLSTM, list[Layer]] | None = None

    # -- inference with packed weights ---------------------------------------------------------

    def freeze(self, kernel: str | Kernel = "auto") -> Self:
        """Pack the weights of this moment for `kernel`, once, and run with them from now on.

        `kernel` is `auto`, the fastest one here for the weights' device, or `gpu`, `cpu` or
        `reference` (or one that was chosen already). Raises `KernelUnavailable` if it can't run
        here.

        For inference: sets eval mode, and no gradient reaches the weights. Training mode, another
        dtype or device, loading a state_dict, or other parameters in the place of these thaw the
        module again; numbers that are changed in place are not seen. A copy and a pickle are frozen
        too: they pack their own weights when they first run, for the same kernel if it can run
        where they are, else for `reference`.
        """
        self.eval()
        run_weight_hooks(self)
        if isinstance(kernel, str):
            kernel = choose_kernel(kernel, self.weight_ih_l0.device).kernel
        self._frozen = Frozen.make(self, kernel, _make_layers)
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether packed weights run, and not the parameters as they are."""
        return self._frozen is not None and self._frozen.is_of(self)

    def reset_parameters(self) -> None:
        self._frozen = None
        super().reset_parameters()

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._frozen = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._frozen = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._frozen = None
        super()._load_from_state_dict(*args, **kwargs)

    def layers(self) -> list[Layer]:
        """Make the layers that run, in order: packed ones if frozen, or else reference layers of
        the parameters of this moment.
        """
        frozen = None if self._frozen is None else self._frozen.packed_of(self)
        return _make_layers(self, ReferenceLayer) if frozen is None else frozen

    # -- running it ----------------------------------------------------------------------------

    @eager(_NO_GRAPH)
    def forward_ragged(
        self,
        x: Tensor,
        lengths: Sequence[int] | np.ndarray | Tensor | RaggedBatch,
        hx: States | None = None,
    ) -> tuple[Tensor, States]:
        """Run B sequences that lie one after the other, without padding.

        `x` [N, D]; `lengths` [B] steps each, at least 1, in any order (or the `RaggedBatch`
        made of them); `hx` = (h_0 [layers*K, B, P], c_0 [layers*K, B, H]), zeros if None.
        Returns `y` [N, K*P] in x's order and (h_n, c_n), shaped as `hx`.

        Raises `ValueError` where shapes, types, devices and lengths do not agree, and
        `RuntimeError` under `torch.jit.trace`.
        """
        if _is_tracing():
            raise RuntimeError(_NO_TRACE)
        if self._forward_pre_hooks and not self.is_frozen:
            run_weight_hooks(self)  # which a call of the module has run already
        return self._forward_ragged(x, lengths, hx)

    def _forward_ragged(
        self,
        x: Tensor,
        lengths: Sequence[int] | np.ndarray | Tensor | RaggedBatch,
        hx: States | None,
    ) -> tuple[Tensor, States]:
        batch = lengths if isinstance(lengths, RaggedBatch) else _batch(lengths, x.device)
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ValueError(f"x must be [N, {self.input_size}] (input_size), got {list(x.shape)}")
        if batch.steps != x.shape[0]:
            raise ValueError(f"lengths add up to {batch.steps}, but x has {x.shape[0]} rows")
        self._check_state_shapes(len(batch), hx)
        weights = self.weight_ih_l0
        for name, tensor in zip(("x", "h_0", "c_0"), (x, *(hx or ())), strict=False):
            if tensor.device != weights.device:
                raise ValueError(f"{name} must be on {weights.device}, got {tensor.device}")
        if self._is_autocast(x, hx):
            return self._run_in_own_type(x, batch, hx)
        if x.dtype != weights.dtype:
            raise ValueError(f"x must be {weights.dtype} as the weights, got {x.dtype}")
        if hx is not None and (wrong := {state.dtype for state in hx} - {x.dtype}):
            raise ValueError(f"hx must be {x.dtype} as x, got {wrong.pop()}")
        return self._run(x, batch, hx)

    def _run(self, x: Tensor, batch: RaggedBatch, hx: States | None) -> tuple[Tensor, States]:
        directions = self.num_directions
        x = x.resolve_neg()  # kernels read memory, which a view of negated numbers shares
        if hx is None:
            states = (directions, len(batch))
            zeros = (x.new_zeros(*states, self.output_size), x.new_zeros(*states, self.hidden_size))
            initial = [zeros] * self.num_layers
        else:
            h_0, c_0 = (torch.split(state.resolve_neg(), directions) for state in hx)
            initial = list(zip(h_0, c_0, strict=True))
        final: list[States] = []
        for index, layer in enumerate(self.layers()):
            if index and self.training and self.dropout:
                x = F.dropout(x, self.dropout)
            x, h, c = layer(x, batch, *initial[index])
            final.append((h, c))
        h_n, c_n = zip(*final, strict=True)
        return x, (torch.cat(h_n), torch.cat(c_n))

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`, which calls this."""
        raise RuntimeError(f"torch.jit.script can't compile a BiLSTM; {_FOR_JIT}")

    # -- under torch.autocast ------------------------------------------------------------------

    def _is_autocast(self, x: Tensor, hx: States | None) -> bool:
        if not torch.is_autocast_enabled(x.device.type):
            return False
        tensors = (self.weight_ih_l0, x, *(hx or ()))
        return all(tensor.dtype in _AUTOCAST_TYPES for tensor in tensors)

    def _run_in_own_type(
        self, x: Tensor, batch: RaggedBatch, hx: States | None
    ) -> tuple[Tensor, States]:
        """Compute in the weights' type, and answer in the types that nn.LSTM's equations have
        where products are of autocast's type: a cell keeps its own if that is wider, and so does
        its output, unless a product projects it.
        """
        device, own = x.device.type, self.weight_ih_l0.dtype
        products = torch.get_autocast_dtype(device)
        cell = torch.promote_types(products, x.dtype if hx is None else hx[1].dtype)
        output = products if self.proj_size else cell
        with torch.autocast(device, enabled=False):
            states = None if hx is None else (hx[0].to(own), hx[1].to(own))
            y, (h_n, c_n) = self._run(x.to(own), batch, states)
        return y.to(output), (h_n.to(output), c_n.to(cell))

    # -- nn.LSTM's input forms -----------------------------------------------------------------

    @eager(_NO_GRAPH)
    def forward(
        self, input: Tensor | PackedSequence, hx: States | None = None
    ) -> tuple[Tensor | PackedSequence, States]:
        """Take and return what nn.LSTM does.

        `input` is [T, B, D] ([B, T, D] with `batch_first`), [T, D], or a `PackedSequence`;
        the output has the same form with K*P for D, and (h_n, c_n) are shaped as `hx`:
        [layers*K, B, P or H], without B for an unbatched input. T is at least 1; B may be 0.
        """
        if _is_tracing():  # else torch warns of each number that the trace would keep
            raise RuntimeError(_NO_TRACE)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        if input.dim() == 2:
            if hx is not None:
                if hx[0].dim() != 2 or hx[1].dim() != 2:
                    raise ValueError("for an unbatched input, hx must be unbatched: 2-D tensors")
                hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            y, (h_n, c_n) = self._forward_padded(input.unsqueeze(0), hx)
            return y.squeeze(0), (h_n.squeeze(1), c_n.squeeze(1))
        if input.dim() != 3:
            raise ValueError(f"input must be 2-D or 3-D, got {input.dim()}-D")
        if self.batch_first:
            return self._forward_padded(input, hx)
        y, states = self._forward_padded(input.transpose(0, 1), hx)
        return y.transpose(0, 1).contiguous(), states

    def _forward_padded(self, x: Tensor, hx: States | None) -> tuple[Tensor, States]:
        """[B, T, D] -> [B, T, K*P]"""
        sequences, steps, _ = x.shape
        if steps == 0:
            raise ValueError("input must have at least one step, got none (T = 0)")
        if sequences == 0:
            return self._forward_none(x, hx)
        y, states = self._forward_ragged(x.flatten(0, 1), [steps] * sequences, hx)
        return y.view(sequences, steps, -1), states

    def _forward_none(self, x: Tensor, hx: States | None) -> tuple[Tensor, States]:
        """[0, T, D] -> [0, T, K*P]: a sequence of zeros runs and is left out again, so that types
        and gradients (zeros) are those of any other batch.
        """
        self._check_state_shapes(0, hx)
        if hx is not None:
            hx = (F.pad(hx[0], (0, 0, 0, 1)), F.pad(hx[1], (0, 0, 0, 1)))
        y, (h_n, c_n) = self._forward_padded(F.pad(x, (0, 0, 0, 0, 0, 1)), hx)
        return y[:0], (h_n[:, :0], c_n[:, :0])

    def _forward_packed(
        self, packed: PackedSequence, hx: States | None
    ) -> tuple[PackedSequence, States]:
        # PackedSequence.data is in step order, its sequences the longest first.
        sizes = packed.batch_sizes.numpy()
        lengths = (sizes[:, None] > np.arange(sizes[0])).sum(axis=0)
        batch = RaggedBatch(lengths, packed.data.device)
        x = packed.data.index_select(0, batch.forward_rows.argsort())
        self._check_state_shapes(len(batch), hx)  # before they are sorted: is there one for each?
        if hx is not None and packed.sorted_indices is not None:
            hx = (
                hx[0].index_select(1, packed.sorted_indices),
                hx[1].index_select(1, packed.sorted_indices),
            )
        y, (h_n, c_n) = self._forward_ragged(x, batch, hx)
        if packed.unsorted_indices is not None:
            h_n = h_n.index_select(1, packed.unsorted_indices)
            c_n = c_n.index_select(1, packed.unsorted_indices)
        return packed._replace(data=y.index_select(0, batch.forward_rows)), (h_n, c_n)

    def _state_shapes(self, sequences: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of h and c."""
        rows = self.num_layers * self.num_directions
        return (rows, sequences, self.output_size), (rows, sequences, self.hidden_size)

    def _check_state_shapes(self, sequences: int, hx: States | None) -> None:
        if hx is None:
            return
        shapes = self._state_shapes(sequences)
        for name, state, shape in zip(("h_0", "c_0"), hx, shapes, strict=True):
            if state.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {list(state.shape)}")


def _make_layers(lstm: BiLSTM, kernel: Kernel) -> list[Layer]:
    return [kernel(lstm.directions(layer)) for layer in range(lstm.num_layers)]


def _batch(lengths: Sequence[int] | np.ndarray | Tensor, device: torch.device) -> RaggedBatch:
    if isinstance(lengths, Tensor):
        try:
            lengths = lengths.detach().cpu().numpy()
        except RuntimeError as error:
            raise ValueError(
                "lengths must be known, but under torch.vmap, torch.export and the like a tensor "
                "has no numbers to read: give a list"
            ) from error
    return RaggedBatch(lengths, device)
