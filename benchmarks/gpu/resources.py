"""What the gpu kernel's plans take of a GPU, by the compiler: needs none.

    python -m benchmarks.gpu.resources [--hidden 256] [--type bfloat16] [--capability 90]

Compiles what each plan would launch, and reads registers, shared memory and, from the machine code,
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

from benchmarks.gpu.listing import HOPPER, HOPPER_CAPABILITY, ListingDriver
from benchmarks.tables import markdown
from bilstm_server.model.kernels.gpu.layer import GpuLayer
from bilstm_server.model.kernels.gpu.plans import Cost, CostTable, Plan, Shape, candidates
from bilstm_server.model.kernels.interface import DirectionWeights
from bilstm_server.model.kernels.ragged import RaggedBatch

TYPES = {
    "float32": (torch.float32, "tf32x3"),
    "tf32": (torch.float32, "tf32"),
    "bfloat16": (torch.bfloat16, "ieee"),
    "float16": (torch.float16, "ieee"),
}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_PRODUCTS = r"HGMMA|HMMA|UTC\w*MMA"
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
    narrow_loads: int  # of states that other programs wrote, number by number

    @property
    def meets_targets(self) -> bool:
        fits = self.shared_bytes <= HOPPER.shared_bytes
        fast = self.products > 0 and self.spills <= MOST_SPILLS and not self.narrow_loads
        return fits and fast


def compile_plan(plan: Plan, shape: Shape, capability: int) -> Resources:
    """Of what a batch would launch. Raises what Triton raises where a plan does not fit."""
    driver = ListingDriver(capability)
    driver.activate()
    weights = DirectionWeights(
        torch.zeros(4 * shape.hidden, 1, dtype=shape.dtype),
        torch.zeros(4 * shape.hidden, shape.hidden, dtype=shape.dtype),
        *(None, None, None),
    )
    costs = {plan: Cost(0.0, 0.0, 0.0)}
    layer = GpuLayer(
        [weights] * shape.directions, shape, CostTable(shape.directions, HOPPER, costs)
    )
    batch = RaggedBatch([2])
    states = torch.zeros(shape.directions, 1, shape.hidden, dtype=shape.dtype)
    layer(torch.zeros(2, 1, dtype=shape.dtype), batch, states, states)
    (launch,) = driver.launches
    registers, stack_bytes, code = _disassemble(launch.binary.code)
    loop = _widest_loop(code)

    def count(pattern: str) -> int:
        return sum(bool(re.search(rf"\b({pattern})\b", line)) for line in loop)

    return Resources(
        registers,
        stack_bytes,
        launch.binary.shared_bytes,
        len(loop),
        count(_PRODUCTS),
        count("BAR"),
        count("LDL|STL"),
        count(r"LDG\.E\.U16\.STRONG\.GPU"),
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


def cells(found: Resources | str) -> list[str]:
    """What a table has of a plan."""
    if isinstance(found, str):
        return [found]
    return [
        str(found.registers),
        f"{found.shared_bytes / 1024:.0f}",
        *map(str, (found.instructions, found.products, found.barriers, found.spills)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--type", choices=TYPES, nargs="+", default=list(TYPES))
    parser.add_argument("--directions", type=int, default=2)
    parser.add_argument("--capability", type=int, default=HOPPER_CAPABILITY, help="of the GPU")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 where a plan does not compile or fit, has no products on the tensor cores, "
        f"more than {MOST_SPILLS} spills in a step, or narrow loads",
    )
    chosen = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: with it nothing is compiled")
    shapes = {
        Shape(hidden, chosen.directions, *TYPES[name]): name
        for name in chosen.type
        for hidden in chosen.hidden
    }
    found = list(report(list(shapes), chosen.capability))
    columns = ("registers", "shared KB", "step", "products", "barriers", "spills")
    rows = (
        [shapes[shape], str(shape.hidden), str(plan), *cells(own)] for shape, plan, own in found
    )
    print("\n".join(markdown(("type", "hidden", "plan", *columns), rows, words=3)))
    missed = sum(isinstance(own, str) or not own.meets_targets for _, _, own in found)
    if missed:
        print(f"\n{missed} plans miss a target")
    return 1 if missed and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
