"""What a file is that holds no tensors as they are wanted, and how to make of it one that does.

Looks at first bytes and at names in archives; reads no tensor and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

SAVE = "save with torch.save(model.state_dict(), …) or as safetensors"

# What torch.save writes: a zip archive, or before torch 1.6 a pickle (protocol 2).
ZIP_START = b"PK"
TORCH_STARTS = (ZIP_START, b"\x80\x02")

_KERAS = "as Keras writes it; name it {}"
_STARTS = {
    b"\x93NUMPY": f"a NumPy array; {SAVE}",
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file, {_KERAS.format('.h5')}",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"\x1f\x8b": "compressed; unpack it first",
    b"BZh": "compressed; unpack it first",
    b"\xfd7zXZ": "compressed; unpack it first",
    b"{": f"JSON; name the file with the tensors, or {SAVE}",
    **{
        bytes((0x80, protocol)): "a pickle that torch.save did not write; load it where you trust "
        f"it, and {SAVE}"
        for protocol in (3, 4, 5)
    },
}
_TORCHSCRIPT = (
    "a TorchScript archive; save its tensors alone: torch.save(torch.jit.load({path}, "
    "map_location='cpu').state_dict(), 'weights.pt')"
)


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins as .safetensors do: with the length of a header, which is JSON."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def other_format(start: bytes) -> str | None:
    """What a file with these first bytes is, if it is known to be none of torch.save's."""
    return next((words for known, words in _STARTS.items() if start.startswith(known)), None)


def other_archive(names: Sequence[str], path: Path) -> str | None:
    """What an archive with these members is, if it is known to be none of torch.save's."""
    if any(name.endswith(".npy") for name in names):
        return f"an archive of NumPy arrays (.npz); {SAVE}"
    if "model.weights.h5" in names:
        return f"an archive, {_KERAS.format('.keras')}"
    if any(name.endswith("/constants.pkl") for name in names):
        return _TORCHSCRIPT.format(path=repr(path.name))
    return None


def refused_class(error: Exception) -> str | None:
    """The class or function in a pickle that `torch.load` did not make, by its message."""
    found = re.search(r"(?:GLOBAL|class|function) ([\w.]+) was not an allowed", str(error))
    return found[1] if found else None
