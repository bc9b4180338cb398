"""Whether tensors that are left out may stand before an LSTM, whose states would be others then.

Judges by shapes alone, and in doubt says that they may: names are anyone's.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..weights import some
from .found import Found, Shape


def check_left_out(
    left: Sequence[Found], lstms: Sequence[Found], *, is_embedded: bool = False
) -> None:
    """Raise `ValueError` if one of the modules may compute an LSTM's input or initial states. If
    `is_embedded`, embeddings give all that the first one reads, and nothing is joined to them."""
    for lstm in lstms:
        before = [name for m in left if _may_precede(m, lstm, is_embedded) for name in m.shapes]
        if before:
            raise ValueError(
                f"{some(before)} may stand before {lstm} (its input is {lstm.reads} wide, its "
                f"states {_state_widths(lstm)[0]}), whose results would be others without; what "
                "stands elsewhere can be taken out of the file"
            )


def _may_precede(module: Found, lstm: Found, is_embedded: bool) -> bool:
    """Judge one module. What ends in the LSTM's input has its width in some shape; a convolution's
    channels may be joined to it, and single numbers may scale it.
    """
    shapes = module.shapes.values()
    return (
        any(lstm.reads in shape or (len(shape) > 2 and not is_embedded) for shape in shapes)
        or all(_numbers(shape) == 1 for shape in shapes)
        or lstm.reads in _recurrent_widths(module)
        or any(_may_be_states(shape, lstm) for shape in shapes)
    )


def _recurrent_widths(module: Found) -> set[int]:
    """The width of another recurrence's output, by the matrix that reads its state."""
    widths = {name.rpartition(".")[2]: shape[-1] for name, shape in module.shapes.items() if shape}
    return {
        (2 if f"{name}_reverse" in widths else 1) * widths[name]
        for name in ("weight_hh_l0", "weight_hh")
        if name in widths
    }


def _may_be_states(shape: Shape, lstm: Found) -> bool:
    width = shape[-1] if shape else 0
    rows = lstm.fields["num_layers"] * (2 if lstm.fields["bidirectional"] else 1)
    return width in _state_widths(lstm) and _numbers(shape) == rows * width


def _state_widths(lstm: Found) -> tuple[int, int]:
    """Of one direction's hidden state, and of its cell."""
    return lstm.fields["proj_size"] or lstm.fields["hidden_size"], lstm.fields["hidden_size"]


def _numbers(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
