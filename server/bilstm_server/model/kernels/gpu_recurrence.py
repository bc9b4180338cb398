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

COUNTER_SPACING = tl.constexpr(32)  # int32 from one group's counter to the next: a cache line
# A batch's sizes and where its parts lie: no other kernel is compiled for others.
_SIZES = (
    *("sequences_0", "sequences_1", "ranks_1", "rows_1", "states_1"),
    *("first_direction", "tiles", "groups", "chunks_apart", "begin", "end"),
)
_UNALIGNED = ("lengths", "first_rows", "positions")
MOST_POLLS = tl.constexpr(1 << 27)  # minutes: what a program waits for will never come


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
    first_direction,  # 0: forward, 1: reverse
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
    weights = _weights(w_hh + direction * (4 * UNITS * UNITS), 0, UNITS, UNITS, UNITS)
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
    row = _row(first_row, length, 0, direction)
    projected = _projected(inputs, row, length > 0, inputs_stride, lines)
    t = 0
    while t < longest:
        # On its way while this step is computed.
        next_row = _row(first_row, length, t + 1, direction)
        next_projected = _projected(inputs, next_row, length > t + 1, inputs_stride, lines)
        factor = h.to(w_hh.dtype.element_ty)
        gates = tl.dot(weights, factor, projected, input_precision=PRECISION)
        output, next_cell = step(gates + biases, cell, UNITS, ROWS)
        live = mask & (length > t)[None, :]
        h = tl.where(live, output, h)
        cell = tl.where(live, next_cell, cell)
        outputs = y + (row * y_stride)[None, :] + units[:, None]
        tl.store(outputs, h.to(y.dtype.element_ty), mask=live)
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
    weights = _held_weights(w_hh, UNITS, DEPTH, BLOCK, HELD)

    end = tl.minimum(end, tl.load(lengths, mask=size > 0, other=0))
    t = begin
    chunk = 0
    chunks = (size + ROWS - 1) // ROWS  # that have a sequence with step t
    until = _longest(lengths, chunks - 1, groups, size, ROWS)  # steps that the last of them has
    length, first_row, _ = _chunk(lengths, first_rows, positions, 0, groups, size, ROWS)
    row = _row(first_row + second * rows_1, length, t, direction)
    projected = _projected(inputs, row, length > t, inputs_stride, lines)
    while t < end:
        # Loaded anew in each step, not carried on: nobody waits for it.
        length, first_row, position = _chunk(
            lengths, first_rows, positions, chunk, groups, size, ROWS
        )
        row = _row(first_row + second * rows_1, length, t, direction)
        row_before = tl.where(direction == 0, row - 1, row + 1)
        state = (second * states_1 + position).to(tl.int64) * HIDDEN
        live = length > t
        mask = live[None, :] & (units < HIDDEN)[:, None]
        states = state[None, :] + units[:, None]
        cell = tl.load(c + states, mask=mask, other=0.0)

        # What comes next is on its way while this is computed.
        last = chunk + 1 >= chunks
        next_t = tl.where(last, t + 1, t)
        next_chunk = tl.where(last, 0, chunk + 1)
        chunks, until = _living(chunks, until, next_t, lengths, groups, size, ROWS)
        next_length, next_first_row, _ = _chunk(
            lengths, first_rows, positions, next_chunk, groups, size, ROWS
        )
        next_row = _row(next_first_row + second * rows_1, next_length, next_t, direction)
        next_projected = _projected(inputs, next_row, next_length > next_t, inputs_stride, lines)

        # h comes to the next step through the output: what another program may still read is
        # never overwritten.
        if SLICES > 1:
            if t > begin:
                _wait(arrived + chunk * COUNTER_SPACING, (t - begin) * SLICES)
        h = tl.where(t == 0, h_0 + state, y + row_before * y_stride)
        gates = _product(
            projected, w_hh, weights, h, live, HIDDEN, UNITS, DEPTH, BLOCK, HELD, PRECISION
        )
        output, cell = step(gates + biases, cell, UNITS, ROWS)
        outputs = y + (row * y_stride)[None, :] + units[:, None]
        tl.store(outputs, output.to(y.dtype.element_ty), mask=mask)
        tl.store(c + states, cell, mask=mask)
        ends = mask & (length == t + 1)[None, :]
        tl.store(h_n + states, output.to(h_n.dtype.element_ty), mask=ends)
        # A barrier of the program's threads in any case: another one of them may load the cells.
        if SLICES > 1:
            _arrive(arrived + chunk * COUNTER_SPACING)
        else:
            tl.debug_barrier()
        t = next_t
        chunk = next_chunk
        projected = next_projected


@triton.jit
def step(gates, cell, UNITS: tl.constexpr, ROWS: tl.constexpr):
    """The LSTM equations: gates [4 * UNITS, ROWS] in `gate_order` and cell [UNITS, ROWS] -> h and
    the next cell, all float32."""
    # [2, UNITS / 8, 2, 8, ROWS] -> [UNITS / 8, 8, ROWS, 2, 2]. As the tensor cores' results lie, a
    # thread has lines n and n + 8, two gates of a unit; with 64 units in 8 warps, all four.
    gates = tl.permute(tl.reshape(gates, (2, UNITS // 8, 2, 8, ROWS)), (1, 3, 4, 0, 2))
    i_g, f_o = tl.split(gates)
    i, g = tl.split(i_g)
    f, o = tl.split(f_o)
    i = _sigmoid(tl.reshape(i, (UNITS, ROWS)))
    f = _sigmoid(tl.reshape(f, (UNITS, ROWS)))
    g = _tanh(tl.reshape(g, (UNITS, ROWS)))
    o = _sigmoid(tl.reshape(o, (UNITS, ROWS)))
    cell = f * cell + i * g
    return o * _tanh(cell), cell


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """Near 0, where the quotient's digits cancel, by the series."""
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    square = x * x
    series = -17 / 315 + square * (62 / 2835)
    near = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * series)))
    return tl.where(tl.abs(x) < 0.3, near, tl.where(x < 0, -far, far))


# -- a product of weights and states ---------------------------------------------------------------


@triton.jit
def _product(
    gates,
    w_hh,
    held,
    h,
    live,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gates + weights [4 * UNITS, DEPTH] times the states [ROWS, HIDDEN] at `h`, transposed."""
    if HELD:
        for block in tl.static_range(DEPTH // BLOCK):
            states = _states(h, live, block * BLOCK, HIDDEN, BLOCK)
            gates = tl.dot(held[block], tl.trans(states), gates, input_precision=PRECISION)
    else:
        for start in range(0, DEPTH, BLOCK):
            weights = _weights(w_hh, start, UNITS, DEPTH, BLOCK)
            states = _states(h, live, start, HIDDEN, BLOCK)
            gates = tl.dot(weights, tl.trans(states), gates, input_precision=PRECISION)
    return gates


@triton.jit
def _held_weights(
    w_hh, UNITS: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr
):
    held = ()
    if HELD:
        for block in tl.static_range(DEPTH // BLOCK):
            held += (_weights(w_hh, block * BLOCK, UNITS, DEPTH, BLOCK),)
    return held


@triton.jit
def _weights(w_hh, start, UNITS: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr):
    lines, columns = tl.arange(0, 4 * UNITS), start + tl.arange(0, BLOCK)
    return tl.load(w_hh + lines[:, None] * DEPTH + columns[None, :])


@triton.jit
def _states(h, live, start, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """[ROWS, BLOCK]. Past L1, which may have what lay there before another program wrote it."""
    columns = start + tl.arange(0, BLOCK)
    mask = live[:, None]
    if HIDDEN % BLOCK != 0:  # or Triton 3.9 would load number by number
        mask = mask & (columns < HIDDEN)[None, :]
    return tl.load(h[:, None] + columns[None, :], mask=mask, other=0.0, cache_modifier=".cg")


# -- where things lie ------------------------------------------------------------------------------


@triton.jit
def _chunk(lengths, first_rows, positions, chunk, groups, size, ROWS: tl.constexpr):
    """Length, first row and position of a chunk's sequences, [ROWS] each."""
    local = chunk * ROWS + tl.arange(0, ROWS)
    ranks = local * groups
    there = local < size
    length = tl.load(lengths + ranks, mask=there, other=0)
    first_row = tl.load(first_rows + ranks, mask=there, other=0)
    position = tl.load(positions + ranks, mask=there, other=0)
    return length, first_row, position


@triton.jit
def _longest(lengths, chunk, groups, size, ROWS: tl.constexpr):
    """Length of a chunk's first sequence."""
    return tl.load(lengths + chunk * ROWS * groups, mask=size > 0, other=0)


@triton.jit
def _living(chunks, until, t, lengths, groups, size, ROWS: tl.constexpr):
    """How many chunks have a sequence with step t, and the steps that the last of them has."""
    while (until <= t) & (chunks > 1):
        chunks -= 1
        until = _longest(lengths, chunks - 1, groups, size, ROWS)
    return chunks, until


@triton.jit
def _row(first_row, length, t, direction):
    """Of a sequence's step t, counted in its direction's order."""
    return tl.where(direction == 0, first_row + t, first_row + length - 1 - t).to(tl.int64)


@triton.jit
def _projected(inputs, row, live, stride, lines):
    """W_ih x of some sequences' steps, [4 * UNITS, ROWS]"""
    rows = inputs + row * stride
    return tl.load(rows[None, :] + lines[:, None], mask=live[None, :], other=0.0)


# -- waiting for each other ------------------------------------------------------------------------


@triton.jit
def _wait(arrived, target):
    """Until so many have arrived in all: what they wrote before can then be read. One that waits
    for nothing ends with an error of the device, not never."""
    polls = 0
    while _arrivals(arrived) < target:
        polls += 1
        if polls == MOST_POLLS:
            _trap()


@triton.jit
def _arrivals(arrived):
    return tl.inline_asm_elementwise(
        "ld.acquire.gpu.global.s32 $0, [$1];",
        "=r,l",
        [arrived],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _arrive(arrived):
    """Say that what this program has written can be read: one thread for all."""
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        """
        {
            .reg .pred first;
            .reg .u32 thread;
            mov.u32 thread, %tid.x;
            setp.eq.u32 first, thread, 0;
            @first red.release.gpu.global.add.s32 [$1], 1;
            mov.u32 $0, 0;
        }
        """,
        "=r,l",
        [arrived],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _trap():
    tl.inline_asm_elementwise(
        "trap; mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )
