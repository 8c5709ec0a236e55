"""Deformable attention as Triton kernels: loops over levels and points, for a block of queries of one head at a time.

A Triton program handles a whole tile at once: BLOCK_Q queries by BLOCK_D channels of one picture and head. One number a
query (``sample``, ``attention``) is a column (BLOCK_Q, 1), one number a channel a row (1, BLOCK_D), and together they
stretch to the tile. Which thread does what, and how wide its loads are, is the compiler's affair: it loads 16 bytes at
a time because it can prove that channels lie side by side in memory, at addresses that are multiples of 16.

The backward pass is two kernels, which each locate the samples anew: gradients of locations and weights only read maps,
the gradient of ``value`` only adds to them. In one kernel every read would wait for the addition before it, for the
compiler must assume that they meet in memory.

Only this file imports Triton, and only :mod:`ddetr_lab.ops.triton` imports this file, when the operator first runs.

Built in chapter 9.
"""
# mypy: disable-error-code="no-untyped-def"
# A kernel's arguments are pointers and numbers of the GPU, for which Python has no types.

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["forward_kernel", "sample_gradients_kernel", "value_gradient_in_order_kernel", "value_gradient_kernel"]

# Triton compiles a kernel anew for integers that are 1 or multiples of 16, unless told not to. These change often.
CHANGING = ["tokens", "queries", "heads"]


@triton.jit
def _place(queries, heads, BLOCK_Q: tl.constexpr):
    """Say which picture, head and queries this program works on.

    Programs of one head follow each other: those that run at the same time read neighbouring cells of the same maps.
    Whatever grows with the number of pictures is counted in 64 bits; within one level of one picture 32 are enough.
    """
    blocks = tl.cdiv(queries, BLOCK_Q)
    pair = tl.program_id(0) // blocks
    query = tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)[:, None]
    picture, head = (pair // heads).to(tl.int64), pair % heads
    item = (picture * queries + query) * heads + head  # the row in (B, Q, M)
    return picture, head, item, query < queries


@triton.jit
def _pick(numbers, level, L: tl.constexpr):
    """Return ``numbers[level]``: a tuple has to be indexed by what is known when compiling."""
    picked = numbers[0]
    for other in tl.static_range(1, L):
        picked = tl.where(level == other, numbers[other], picked)
    return picked


@triton.jit
def _locate(locations, sample, live, height, width):
    """Find the cell above and to the left of each sample, the way from it to the next, and whether it touches the map.

    ``fault`` is 0, or NaN where a location is not finite. Added to a sample's weight it reaches the sum, although
    nothing is read: a fault upstream must not become a plausible number.
    """
    u = tl.load(locations + 2 * sample, mask=live, other=0.0)
    v = tl.load(locations + 2 * sample + 1, mask=live, other=0.0)
    x = u * width - 0.5
    y = v * height - 0.5
    # A NaN, which compares false with everything, touches nothing.
    touches = live & (x > -1) & (x < width) & (y > -1) & (y < height)
    # What does not fit into an integer has no defined conversion to one, so that it is replaced before.
    x = tl.where(touches, x, 0.0)
    y = tl.where(touches, y, 0.0)
    left, top = tl.floor(x), tl.floor(y)
    fault = (u - u) + (v - v)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top, touches, fault


@triton.jit
def _corner(RIGHT: tl.constexpr, BELOW: tl.constexpr, left, top, along_x, along_y, touches, height, width):
    """Return a corner's cell in the level, its shares of the sample in x and y, and whether it is inside the map."""
    column, row = left + RIGHT, top + BELOW
    rows, columns = height.to(tl.int32), width.to(tl.int32)
    inside = touches & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    share_x = along_x if RIGHT else 1 - along_x
    share_y = along_y if BELOW else 1 - along_y
    return row * columns + column, share_x, share_y, inside


@triton.jit(do_not_specialize=CHANGING)
def forward_kernel(
    value,  # (B, S, M, D)
    heights,  # L floats, and so are the widths: for integers in a tuple it cannot be told
    widths,
    locations,  # (B, Q, M, L, P, 2)
    weights,  # (B, Q, M, L, P)
    output,  # (B, Q, M, D)
    tokens,
    queries,
    heads,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum the samples of a block of queries."""
    real: tl.constexpr = weights.dtype.element_ty
    picture, head, item, live = _place(queries, heads, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    stride = heads * D  # from a cell to the next
    level_map = value + (picture * tokens * stride + head * D)
    sample = item * (L * P)
    total = tl.zeros((BLOCK_Q, BLOCK_D), real)
    for level in tl.range(0, L):
        height, width = _pick(heights, level, L), _pick(widths, level, L)
        for _ in tl.range(0, P, loop_unroll_factor=4):
            left, top, along_x, along_y, touches, fault = _locate(locations, sample, live, height, width)
            attention = tl.load(weights + sample, mask=live, other=0.0) + fault
            for corner in tl.static_range(4):
                cell, share_x, share_y, inside = _corner(
                    corner % 2, corner // 2, left, top, along_x, along_y, touches, height, width
                )
                # A power of two is what a tile's sides must be: the mask cuts what D lacks of one.
                reads = inside & (channel < D)
                cells = tl.load(level_map + cell * stride + channel, mask=reads, other=0.0)
                total += attention * share_x * share_y * cells.to(real)
            sample += 1
        level_map += height.to(tl.int64) * width.to(tl.int64) * stride
    result = total.to(output.dtype.element_ty)
    tl.store(output + item * D + channel, result, mask=live & (channel < D))


@triton.jit(do_not_specialize=CHANGING)
def sample_gradients_kernel(
    value,
    heights,
    widths,
    locations,
    weights,
    grad_output,  # (B, Q, M, D)
    grad_locations,
    grad_weights,
    tokens,
    queries,
    heads,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Differentiate by locations and attention weights: read what the forward pass read, and sum over channels."""
    real: tl.constexpr = weights.dtype.element_ty
    picture, head, item, live = _place(queries, heads, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    stride = heads * D
    level_map = value + (picture * tokens * stride + head * D)
    sample = item * (L * P)
    here = live & (channel < D)
    gradient = tl.load(grad_output + item * D + channel, mask=here, other=0.0).to(real)
    point = tl.arange(0, BLOCK_P)[None, :]
    pair = tl.arange(0, 2 * BLOCK_P)[None, :]  # x and y of each point
    for level in tl.range(0, L):
        height, width = _pick(heights, level, L), _pick(widths, level, L)
        # Collected, a level's gradients leave side by side; one at a time, each few bytes would cost a sector.
        to_locations = tl.zeros((BLOCK_Q, 2 * BLOCK_P), real)
        to_weights = tl.zeros((BLOCK_Q, BLOCK_P), real)
        for k in tl.range(0, P, loop_unroll_factor=4):
            left, top, along_x, along_y, touches, fault = _locate(locations, sample + k, live, height, width)
            attention = tl.load(weights + sample + k, mask=live, other=0.0)
            slope_x, slope_y, grad_weight = fault, fault, fault
            for corner in tl.static_range(4):
                cell, share_x, share_y, inside = _corner(
                    corner % 2, corner // 2, left, top, along_x, along_y, touches, height, width
                )
                reads = inside & (channel < D)
                cells = tl.load(level_map + cell * stride + channel, mask=reads, other=0.0)
                # What the loss gains per unit of this corner's share. The share is a product, in x and in y: a step to
                # the right takes from the left corners what it gives to the right ones.
                gain = tl.sum(gradient * cells.to(real), axis=1, keep_dims=True)
                slope_x += gain * share_y * (1 if corner % 2 else -1)
                slope_y += gain * share_x * (1 if corner // 2 else -1)
                grad_weight += gain * share_x * share_y
            grad_location = attention * tl.where(pair % 2 == 0, width * slope_x, height * slope_y)
            to_locations = tl.where(pair // 2 == k, grad_location, to_locations)
            to_weights = tl.where(point == k, grad_weight, to_weights)
        tl.store(grad_locations + 2 * sample + pair, to_locations, mask=live & (pair < 2 * P))
        tl.store(grad_weights + sample + point, to_weights, mask=live & (point < P))
        sample += P
        level_map += height.to(tl.int64) * width.to(tl.int64) * stride


@triton.jit
def _spread(
    grad_map,  # one level of grad_value, at this head's first channel
    locations,
    weights,
    sample,  # the first of the P samples of each query in this level
    live,
    gradient,
    height,
    width,
    stride,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IN_ORDER: tl.constexpr,
):
    """Add the gradient of a block of queries to the cells that they read in one level."""
    channel = tl.arange(0, BLOCK_D)[None, :]
    for _ in tl.range(0, P):
        left, top, along_x, along_y, touches, fault = _locate(locations, sample, live, height, width)
        attention = tl.load(weights + sample, mask=live, other=0.0)
        for corner in tl.static_range(4):
            cell, share_x, share_y, inside = _corner(
                corner % 2, corner // 2, left, top, along_x, along_y, touches, height, width
            )
            adds = inside & (channel < D)
            part = attention * share_x * share_y * gradient
            # relaxed: nobody reads before the kernel has ended, so that no memory has to be put in order.
            tl.atomic_add(grad_map + cell * stride + channel, part, mask=adds, sem="relaxed")
        if IN_ORDER:
            tl.debug_barrier()  # the next sample may add to the same cells, and comes second
        sample += 1


@triton.jit(do_not_specialize=CHANGING)
def value_gradient_kernel(
    grad_value,  # (B, S, M, D) in the dtype of the sums, zeros before
    heights,
    widths,
    locations,
    weights,
    grad_output,
    tokens,
    queries,
    heads,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Differentiate by values, in whatever order programs come by: sums differ in their last bits from run to run."""
    real: tl.constexpr = weights.dtype.element_ty
    picture, head, item, live = _place(queries, heads, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    stride = heads * D
    grad_map = grad_value + (picture * tokens * stride + head * D)
    here = live & (channel < D)
    gradient = tl.load(grad_output + item * D + channel, mask=here, other=0.0).to(real)
    for level in tl.range(0, L):
        height, width = _pick(heights, level, L), _pick(widths, level, L)
        sample = item * (L * P) + level * P
        _spread(
            grad_map, locations, weights, sample, live, gradient, height, width, stride, P, D, BLOCK_D, IN_ORDER=False
        )
        grad_map += height.to(tl.int64) * width.to(tl.int64) * stride


@triton.jit(do_not_specialize=CHANGING)
def value_gradient_in_order_kernel(
    grad_value,
    heights,
    widths,
    locations,
    weights,
    grad_output,
    tokens,
    queries,
    heads,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Differentiate by values in the same order every time: one program walks all queries of a picture, head and level.

    No two programs add to the same cell. The price is the width of the machine: B * M * L programs of one warp each,
    every one with Q * P samples to walk in turn, where ``value_gradient_kernel`` has all queries under way at once.
    """
    real: tl.constexpr = weights.dtype.element_ty
    pair = tl.program_id(0) // L
    picture, head = (pair // heads).to(tl.int64), pair % heads
    channel = tl.arange(0, BLOCK_D)[None, :]
    stride = heads * D
    grad_map = grad_value + (picture * tokens * stride + head * D)
    live = tl.full((1, 1), 1, tl.int1)
    for level in tl.range(0, L):
        height, width = _pick(heights, level, L), _pick(widths, level, L)
        if tl.program_id(0) % L == level:
            for query in tl.range(0, queries):
                item = (picture * queries + query) * heads + head + tl.zeros((1, 1), tl.int64)
                gradient = tl.load(grad_output + item * D + channel, mask=channel < D, other=0.0).to(real)
                sample = item * (L * P) + level * P
                _spread(
                    grad_map,
                    locations,
                    weights,
                    sample,
                    live,
                    gradient,
                    height,
                    width,
                    stride,
                    P,
                    D,
                    BLOCK_D,
                    IN_ORDER=True,
                )
        grad_map += height.to(tl.int64) * width.to(tl.int64) * stride
