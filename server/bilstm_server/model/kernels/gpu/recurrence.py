"""The recurrence of one layer on a GPU, in Triton: both directions in one launch.

Two kernels, and one `step` for both. `recurrence_alone`: a program has all the hidden units of a
direction, and their weights on chip; it takes a tile of sequences through all its steps and knows
no other program. `recurrence_shared`: the units are cut into slices, and the sequences dealt to
groups; a program computes one slice for one group, a chunk of its sequences after the other, and
waits in each step for the other slices' part of the chunk's last one. They run at the same time,
which a cooperative launch makes sure of.

Sequences are known by rank, the longest first. Each program runs as long as the longest of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .barrier import COUNTER_SPACING, arrive, wait
from .chunks import drop_ended, load_chunk, load_projected, longest_of, row_of
from .step import held_weights, load_weights, product, step

# A batch's sizes and where its parts lie: no other kernel is compiled for others.
_SIZES = (
    *("sequences_0", "sequences_1", "ranks_1", "rows_1", "states_1"),
    *("first_direction", "tiles", "groups", "chunks_apart", "begin", "end"),
)
_UNALIGNED = ("lengths", "first_rows", "positions")


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_UNALIGNED)
def recurrence_alone(
    inputs,  # [N, …] float32: W_ih x of each step, in `gate_order`
    w_hh,  # [directions, 4 * UNITS, UNITS], its rows in `gate_order`
    bias,  # [directions, 4 * UNITS] float32
    h_0,  # [sequences, HIDDEN] of y's type; the second direction's below the first's
    c,  # [sequences, HIDDEN] float32: initial cell states, in the end the final ones
    h_n,  # [sequences, HIDDEN]
    y,  # [N, …]
    lengths,  # int32, and so the next two: of each rank
    first_rows,
    positions,  # row of the states
    sequences_0,  # of the first direction
    sequences_1,
    ranks_1,  # where in `lengths` the second direction's sequences begin
    rows_1,  # where its steps begin
    states_1,  # and its states
    inputs_stride,
    inputs_column_1,  # where in a row of `inputs` the second direction's columns begin
    y_stride,
    y_column_1,
    first_direction,  # 0: forward, 1: backward
    tiles,  # of each direction
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,  # HIDDEN, padded
    ROWS: tl.constexpr,  # sequences of a tile
    PRECISION: tl.constexpr,  # of float32 products
):
    program = tl.program_id(0)
    tile = program % tiles
    second = program // tiles
    direction = first_direction + second
    sequences = tl.where(second == 0, sequences_0, sequences_1)
    y += second * y_column_1
    inputs += second * inputs_column_1

    lines = tl.arange(0, 4 * UNITS)
    units = tl.arange(0, UNITS)
    weights = load_weights(w_hh + direction * (4 * UNITS * UNITS), 0, UNITS, UNITS, UNITS)
    biases = tl.load(bias + direction * (4 * UNITS) + lines)[:, None]

    ranks = tile * ROWS + tl.arange(0, ROWS)
    there = ranks < sequences
    ranks += second * ranks_1
    length = tl.load(lengths + ranks, mask=there, other=0)
    first_row = tl.load(first_rows + ranks, mask=there, other=0) + second * rows_1
    position = tl.load(positions + ranks, mask=there, other=0)
    states = (second * states_1 + position).to(tl.int64)[None, :] * HIDDEN + units[:, None]
    mask = there[None, :] & (units < HIDDEN)[:, None]
    h = tl.load(h_0 + states, mask=mask, other=0.0).to(tl.float32)
    cell = tl.load(c + states, mask=mask, other=0.0)

    longest = tl.max(length)
    row = row_of(first_row, length, 0, direction)
    projected = load_projected(inputs, row, length > 0, inputs_stride, lines)
    t = 0
    while t < longest:
        # On its way while this step is computed.
        next_row = row_of(first_row, length, t + 1, direction)
        next_projected = load_projected(inputs, next_row, length > t + 1, inputs_stride, lines)
        factor = h.to(w_hh.dtype.element_ty)
        gates = tl.dot(weights, factor, projected, input_precision=PRECISION)
        output, next_cell = step(gates + biases, cell, UNITS, ROWS)
        active = mask & (length > t)[None, :]
        h = tl.where(active, output, h)
        cell = tl.where(active, next_cell, cell)
        outputs = y + (row * y_stride)[None, :] + units[:, None]
        tl.store(outputs, h.to(y.dtype.element_ty), mask=active)
        t += 1
        row = next_row
        projected = next_projected
    tl.store(h_n + states, h.to(h_n.dtype.element_ty), mask=mask)
    tl.store(c + states, cell, mask=mask)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_UNALIGNED)
def recurrence_shared(
    # As for `recurrence_alone`:
    inputs,
    w_hh,  # [directions, SLICES, 4 * UNITS, DEPTH]
    bias,  # [directions, SLICES, 4 * UNITS]
    h_0,
    c,
    h_n,
    y,
    lengths,
    first_rows,
    positions,
    sequences_0,  # that have step `begin`
    sequences_1,
    ranks_1,
    rows_1,
    states_1,
    inputs_stride,
    inputs_column_1,
    y_stride,
    y_column_1,
    first_direction,
    groups,  # of each direction; the ranks are dealt to them in turn
    begin,  # steps: those before are done
    end,
    arrived,  # int32 zeros: a counter for each chunk of each group of each direction
    chunks_apart,  # from one group's counters to the next group's
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,  # of a slice
    ROWS: tl.constexpr,  # sequences of one product
    PRECISION: tl.constexpr,
    SLICES: tl.constexpr,
    DEPTH: tl.constexpr,  # HIDDEN, padded to a multiple of BLOCK
    BLOCK: tl.constexpr,  # depth of one product
    HELD: tl.constexpr,  # whether the slice's weights stay on chip
):
    program = tl.program_id(0)
    slice_ = program % SLICES
    group = program // SLICES % groups
    second = program // (SLICES * groups)
    direction = first_direction + second
    sequences = tl.where(second == 0, sequences_0, sequences_1)
    size = (sequences - group + groups - 1) // groups  # sequences of this group
    lengths += second * ranks_1 + group
    first_rows += second * ranks_1 + group
    positions += second * ranks_1 + group
    arrived += (second * groups + group) * chunks_apart * COUNTER_SPACING
    y += second * y_column_1
    inputs += second * inputs_column_1 + slice_ * (4 * UNITS)

    lines = tl.arange(0, 4 * UNITS)
    units = slice_ * UNITS + tl.arange(0, UNITS)
    part = (direction * SLICES + slice_).to(tl.int64) * (4 * UNITS)
    w_hh += part * DEPTH
    biases = tl.load(bias + part + lines)[:, None]
    weights = held_weights(w_hh, UNITS, DEPTH, BLOCK, HELD)

    end = tl.minimum(end, tl.load(lengths, mask=size > 0, other=0))
    t = begin
    chunk = 0
    chunks = (size + ROWS - 1) // ROWS  # that have a sequence with step t
    until = longest_of(lengths, chunks - 1, groups, size, ROWS)  # steps that the last of them has
    length, first_row, _ = load_chunk(lengths, first_rows, positions, 0, groups, size, ROWS)
    row = row_of(first_row + second * rows_1, length, t, direction)
    projected = load_projected(inputs, row, length > t, inputs_stride, lines)
    while t < end:
        # Loaded anew in each step, not carried on: nobody waits for it.
        length, first_row, position = load_chunk(
            lengths, first_rows, positions, chunk, groups, size, ROWS
        )
        row = row_of(first_row + second * rows_1, length, t, direction)
        row_before = tl.where(direction == 0, row - 1, row + 1)
        state = (second * states_1 + position).to(tl.int64) * HIDDEN
        active = length > t
        mask = active[None, :] & (units < HIDDEN)[:, None]
        states = state[None, :] + units[:, None]
        cell = tl.load(c + states, mask=mask, other=0.0)

        # What comes next is on its way while this is computed.
        last = chunk + 1 >= chunks
        next_t = tl.where(last, t + 1, t)
        next_chunk = tl.where(last, 0, chunk + 1)
        chunks, until = drop_ended(chunks, until, next_t, lengths, groups, size, ROWS)
        next_length, next_first_row, _ = load_chunk(
            lengths, first_rows, positions, next_chunk, groups, size, ROWS
        )
        next_row = row_of(next_first_row + second * rows_1, next_length, next_t, direction)
        next_projected = load_projected(
            inputs, next_row, next_length > next_t, inputs_stride, lines
        )

        # h comes to the next step through the output: what another program may still read is
        # never overwritten.
        if SLICES > 1:
            if t > begin:
                wait(arrived + chunk * COUNTER_SPACING, (t - begin) * SLICES)
        h = tl.where(t == 0, h_0 + state, y + row_before * y_stride)
        gates = product(
            projected, w_hh, weights, h, active, HIDDEN, UNITS, DEPTH, BLOCK, HELD, PRECISION
        )
        output, cell = step(gates + biases, cell, UNITS, ROWS)
        outputs = y + (row * y_stride)[None, :] + units[:, None]
        tl.store(outputs, output.to(y.dtype.element_ty), mask=mask)
        tl.store(c + states, cell, mask=mask)
        ends = mask & (length == t + 1)[None, :]
        tl.store(h_n + states, output.to(h_n.dtype.element_ty), mask=ends)
        # A barrier of the program's threads in any case: another one of them may load the cells.
        if SLICES > 1:
            arrive(arrived + chunk * COUNTER_SPACING)
        else:
            tl.debug_barrier()
        t = next_t
        chunk = next_chunk
        projected = next_projected
