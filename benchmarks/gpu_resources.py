"""What the gpu kernel's plans take of a GPU, by the compiler: needs none.

    python -m benchmarks.gpu_resources [--hidden 256] [--type bfloat16] [--capability 90]

Compiles each plan ahead of time, and reads registers, shared memory and, from the machine code,
what is in the loop over the steps: spills, barriers, products on the tensor cores.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bilstm_server.model.kernels import gpu_recurrence
from bilstm_server.model.kernels.gpu_plans import Plan, Processor, Shape, candidates

HOPPER = Processor(multiprocessors=132, shared_bytes=227 * 1024)
TYPES = {
    "float32": (torch.float32, "tf32x3"),
    "tf32": (torch.float32, "tf32"),
    "bfloat16": (torch.bfloat16, "ieee"),
    "float16": (torch.float16, "ieee"),
}
_TRITON_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_PRODUCTS = r"HGMMA|HMMA"
MOST_SPILLS = 16  # registers written or read back, of some hundred instructions


@dataclass(frozen=True, slots=True)
class Resources:
    registers: int  # of a thread
    stack_bytes: int  # of a thread, most of it for spills
    shared_bytes: int  # of a program
    # Instructions in the loop over the steps:
    instructions: int
    products: int
    barriers: int
    spills: int  # reads and writes

    @property
    def meets_targets(self) -> bool:
        fits = self.shared_bytes <= HOPPER.shared_bytes
        return fits and self.products > 0 and self.spills <= MOST_SPILLS


def compile_plan(plan: Plan, shape: Shape, capability: int) -> Resources:
    """Raises what Triton raises where a plan does not fit."""
    kernel = gpu_recurrence.recurrence_alone if plan.alone else gpu_recurrence.recurrence_shared
    values = {
        "HIDDEN": shape.hidden,
        "UNITS": plan.units,
        "SLICES": plan.slices,
        "DEPTH": plan.depth,
        "ROWS": plan.rows,
        "BLOCK": plan.block,
        "HELD": plan.held,
        "PRECISION": shape.precision,
    }
    own = f"*{_TRITON_TYPES[shape.dtype]}"
    pointers = {
        **dict.fromkeys(("inputs", "bias", "c"), "*fp32"),
        **dict.fromkeys(("w_hh", "h_0", "h_n", "y"), own),
        **dict.fromkeys(("lengths", "first_rows", "positions", "arrived"), "*i32"),
    }
    unaligned = {"lengths", "first_rows", "positions"}
    strides = {"inputs_stride", "inputs_column_1", "y_stride", "y_column_1"}
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in values else pointers.get(name, "i32") for name in names
    }
    aligned = (pointers.keys() - unaligned) | (strides if shape.hidden % 16 == 0 else set())
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): values[name] for name in names if name in values},
        attrs={
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(names)
            if name in aligned
        },
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": plan.warps, "num_stages": plan.stages},
    )
    registers, stack_bytes, code = _disassemble(compiled.asm["cubin"])
    loop = _widest_loop(code)

    def count(pattern: str) -> int:
        return sum(bool(re.search(rf"\b({pattern})\b", line)) for line in loop)

    return Resources(
        registers,
        stack_bytes,
        compiled.metadata.shared,
        len(loop),
        count(_PRODUCTS),
        count("BAR"),
        count("LDL|STL"),
    )


def _disassemble(binary: bytes) -> tuple[int, int, list[tuple[int, str]]]:
    """Registers and stack of a thread, and the instructions with their addresses."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, code = (
            subprocess.run(
                [_TOOLS / "cuobjdump", option, file.name],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for option in ("-res-usage", "-sass")
        )
    used = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert used is not None
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", code, re.MULTILINE)
    return int(used[1]), int(used[2]), [(int(address, 16), text) for address, text in lines]


def _widest_loop(code: list[tuple[int, str]]) -> list[str]:
    """The instructions of the loop that has the most products, the longest of such."""
    products = [address for address, text in code if re.search(rf"\b({_PRODUCTS})\b", text)]
    loops = []
    for address, text in code:
        jump = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            target = int(jump[1], 16)
            inside = sum(target <= product <= address for product in products)
            loops.append((inside, address - target, target, address))
    _, _, first, last = max(loops)
    return [text for address, text in code if first <= address <= last]


def _try(case: tuple[Plan, Shape, int]) -> Resources | str:
    try:
        return compile_plan(*case)
    except Exception as error:  # of many types: the plan is reported as not possible
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


def report(shapes: list[Shape], capability: int) -> Iterator[tuple[Shape, Plan, Resources | str]]:
    """Each plan of each shape, and what it takes or why it can't be."""
    cases = [(plan, shape, capability) for shape in shapes for plan in candidates(shape, HOPPER)]
    with ProcessPoolExecutor() as pool:
        for (plan, shape, _), found in zip(cases, pool.map(_try, cases), strict=True):
            yield shape, plan, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--type", choices=TYPES, nargs="+", default=list(TYPES))
    parser.add_argument("--directions", type=int, default=2)
    parser.add_argument("--capability", type=int, default=90, help="of the GPU: 90 is Hopper's")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 where a plan does not compile or fit, has no products on the tensor cores, "
        f"or more than {MOST_SPILLS} spills in a step",
    )
    chosen = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: with it nothing is compiled")
    shapes = {
        Shape(hidden, chosen.directions, *TYPES[name]): name
        for name in chosen.type
        for hidden in chosen.hidden
    }
    print("| type | hidden | plan | registers | shared KB | step | products | barriers | spills |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    missed = 0
    for shape, plan, found in report(list(shapes), chosen.capability):
        cells = [shapes[shape], str(shape.hidden), str(plan)]
        if isinstance(found, Resources):
            cells += [
                str(found.registers),
                f"{found.shared_bytes / 1024:.0f}",
                *map(str, (found.instructions, found.products, found.barriers, found.spills)),
            ]
        else:
            cells.append(found)
        print("|", " | ".join(cells), "|", flush=True)
        missed += not isinstance(found, Resources) or not found.meets_targets
    if missed:
        print(f"\n{missed} plans miss a target")
    return 1 if missed and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
