"""Triton kernels of group normalisation with channels last; `group_norm.py` has the mathematics and the shapes.

A sample is `rows` rows of `channels` values. Large samples take three kernels each way, which read the data twice and
write it once:

    statistics   mean and squared deviations of each channel in each chunk of rows, about the chunk's first row, so that
                 a mean far from zero does not cancel
    finalise     the chunks and the channels of a group joined (Chan et al., 1979)
    apply        norm, affine map, FiLM and SiLU

Chunks depend on the shape of a sample only, so a sample has the same result in every batch. No sum is atomic, so every
run has the same result. Small samples take one kernel, whose second reading finds the data in the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

RUNTIME = ("rows", "inner", "period", "offset_periods", "modulation_stride", "chunk", "chunks")
"""Integer arguments without a compiled variant for each divisibility."""


@triton.jit
def load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period, offset_periods,
              SKIP: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """Values of sample `n` at `row` (R, 1) and `channel` (1, C), float32: `x` beside `skip`, plus `offset`."""
    line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
    if SKIP:
        value = tl.load(x + line * x_channels + channel, mask=mask & (channel < x_channels), other=0.0).to(tl.float32)
        beside = skip + line * (channels - x_channels) + (channel - x_channels)
        value += tl.load(beside, mask=mask & (channel >= x_channels), other=0.0).to(tl.float32)
    else:
        value = tl.load(x + line * channels + channel, mask=mask, other=0.0).to(tl.float32)
    if OFFSET:
        at = offset + (n.to(tl.int64) * offset_periods + row // period) * channels + channel
        value += tl.load(at, mask=mask, other=0.0).to(tl.float32)
    return value


@triton.jit
def load_affine(weight, bias, modulation, n, channel, inside, channels, modulation_stride, MODULATION: tl.constexpr):
    """The factor and the summand of each channel after the norm, with FiLM; and FiLM's factor."""
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    summand = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    scale = tl.full(channel.shape, 1.0, tl.float32)
    if MODULATION:
        at = modulation + n.to(tl.int64) * modulation_stride + channel
        scale += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(at + channels, mask=inside, other=0.0).to(tl.float32)
        factor = factor * scale
        summand = summand * scale + shift
    return factor, summand, scale


@triton.jit
def silu_slope(value):
    """The derivative of x·sigmoid(x)."""
    sigmoid = tl.sigmoid(value)
    return sigmoid * (1.0 + value * (1.0 - sigmoid))


@triton.jit
def group_channels(block, groups, WIDTH: tl.constexpr, PADDED: tl.constexpr, GROUPS: tl.constexpr):
    """Channels of a block of `GROUPS` groups of `WIDTH`, each padded to `PADDED`, and which of them exist."""
    index = tl.arange(0, GROUPS * PADDED)
    group = block * GROUPS + index // PADDED
    if WIDTH == PADDED:  # noqa: SIM108 - a choice of the compiler, which then loads several values at once
        channel = block * (GROUPS * PADDED) + index
    else:
        channel = group * WIDTH + index % PADDED
    return channel, (index % PADDED < WIDTH) & (group < groups)


@triton.jit(do_not_specialize=RUNTIME)
def statistics_kernel(x, skip, offset, partials, rows, channels, x_channels, inner, period, offset_periods, chunk,
                      chunks, SKIP: tl.constexpr, OFFSET: tl.constexpr, ROWS: tl.constexpr,
                      CHANNELS: tl.constexpr):  # fmt: skip
    """partials (samples, chunks, 2, channels): means and sums of squared deviations."""
    n, part = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = channel < channels
    first = part * chunk
    first_row = first + tl.zeros((1, 1), tl.int32)
    pivot = load_tile(x, skip, offset, n, first_row, channel, inside, rows, channels, x_channels, inner, period,
                      offset_periods, SKIP, OFFSET)  # fmt: skip
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, chunk, ROWS):
        row = (first + start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        value = tl.where(mask, value - pivot, 0.0)
        total += value
        squares += value * value
    total_1d = tl.sum(total, 0)[None, :]
    mean = total_1d / tl.minimum(chunk, rows - first)
    deviation = tl.maximum(tl.sum(squares, 0)[None, :] - total_1d * mean, 0.0)
    out = partials + tl.program_id(0).to(tl.int64) * 2 * channels + channel
    tl.store(out, pivot + mean, mask=inside)
    tl.store(out + channels, deviation, mask=inside)


@triton.jit(do_not_specialize=RUNTIME)
def finalise_kernel(partials, weight, bias, modulation, mean_out, rstd_out, coefficients, rows, channels, groups, width,
                    chunk, chunks, modulation_stride, eps,
                    MODULATION: tl.constexpr, CHUNKS: tl.constexpr, PADDED: tl.constexpr):  # fmt: skip
    """The statistics of one group, and what `apply_kernel` multiplies and adds: coefficients (samples, 2, channels)."""
    n, group = tl.program_id(0), tl.program_id(1)
    own = tl.arange(0, PADDED)[None, :]
    channel = group * width + own
    start_of_sample = partials + n.to(tl.int64) * chunks * 2 * channels + channel
    sums = tl.zeros((CHUNKS, PADDED), tl.float32)
    for start in range(0, chunks, CHUNKS):
        part = (start + tl.arange(0, CHUNKS))[:, None]
        count = tl.minimum(chunk, rows - part * chunk).to(tl.float32)
        mask = (part < chunks) & (own < width)
        sums += tl.where(mask, count * tl.load(start_of_sample + part * 2 * channels, mask=mask, other=0.0), 0.0)
    size = rows.to(tl.float32) * width
    mean = tl.sum(tl.sum(sums, 1), 0) / size
    sums = tl.zeros((CHUNKS, PADDED), tl.float32)
    for start in range(0, chunks, CHUNKS):
        part = (start + tl.arange(0, CHUNKS))[:, None]
        count = tl.minimum(chunk, rows - part * chunk).to(tl.float32)
        mask = (part < chunks) & (own < width)
        off = tl.load(start_of_sample + part * 2 * channels, mask=mask, other=0.0) - mean
        deviation = tl.load(start_of_sample + part * 2 * channels + channels, mask=mask, other=0.0)
        sums += tl.where(mask, deviation + count * off * off, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(sums, 1), 0) / size + eps)
    tl.store(mean_out + n * groups + group, mean)
    tl.store(rstd_out + n * groups + group, rstd)
    factor, summand, _ = load_affine(weight, bias, modulation, n, channel, own < width, channels, modulation_stride,
                                     MODULATION)  # fmt: skip
    out = coefficients + n.to(tl.int64) * 2 * channels + channel
    tl.store(out, factor * rstd, mask=own < width)
    tl.store(out + channels, summand, mask=own < width)


@triton.jit(do_not_specialize=RUNTIME)
def apply_kernel(x, skip, offset, mean, coefficients, y, rows, channels, x_channels, inner, period, offset_periods,
                 groups, width, chunk, chunks, SKIP: tl.constexpr, OFFSET: tl.constexpr, SILU: tl.constexpr,
                 ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    n, part = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = channel < channels
    center = tl.load(mean + n * groups + channel // width, mask=inside, other=0.0)
    factor = tl.load(coefficients + n.to(tl.int64) * 2 * channels + channel, mask=inside, other=0.0)
    summand = tl.load(coefficients + (n.to(tl.int64) * 2 + 1) * channels + channel, mask=inside, other=0.0)
    for start in range(0, chunk, ROWS):
        row = (part * chunk + start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        value = (value - center) * factor + summand
        if SILU:
            value *= tl.sigmoid(value)
        line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
        tl.store(y + line * channels + channel, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def small_kernel(x, skip, offset, weight, bias, modulation, y, mean_out, rstd_out, rows, channels, x_channels, inner,
                 period, offset_periods, modulation_stride, groups, eps,
                 SKIP: tl.constexpr, OFFSET: tl.constexpr, MODULATION: tl.constexpr, SILU: tl.constexpr,
                 ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, GROUPS: tl.constexpr):  # fmt: skip
    """All of the forward for `GROUPS` groups of one sample."""
    n, block = tl.program_id(0), tl.program_id(1)
    channel_1d, inside_1d = group_channels(block, groups, WIDTH, PADDED, GROUPS)
    channel, inside = channel_1d[None, :], inside_1d[None, :]
    first = tl.zeros((1, 1), tl.int32)
    pivot = load_tile(x, skip, offset, n, first, channel // WIDTH * WIDTH, inside, rows, channels, x_channels, inner,
                      period, offset_periods, SKIP, OFFSET)  # fmt: skip
    total = tl.zeros((ROWS, GROUPS * PADDED), tl.float32)
    squares = tl.zeros((ROWS, GROUPS * PADDED), tl.float32)
    for start in range(0, rows, ROWS):
        row = (start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        value = tl.where(mask, value - pivot, 0.0)
        total += value
        squares += value * value
    size = rows.to(tl.float32) * WIDTH
    mean = group_sums(total, PADDED, GROUPS) / size
    variance = tl.maximum(group_sums(squares, PADDED, GROUPS) / size - mean * mean, 0.0)
    rstd = 1.0 / tl.sqrt(variance + eps)
    mean += pivot
    first_of_group = inside & (tl.arange(0, GROUPS * PADDED)[None, :] % PADDED == 0)
    tl.store(mean_out + n * groups + channel // WIDTH, mean, mask=first_of_group)
    tl.store(rstd_out + n * groups + channel // WIDTH, rstd, mask=first_of_group)
    factor, summand, _ = load_affine(weight, bias, modulation, n, channel, inside, channels, modulation_stride,
                                     MODULATION)  # fmt: skip
    factor *= rstd
    for start in range(0, rows, ROWS):
        row = (start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        value = (value - mean) * factor + summand
        if SILU:
            value *= tl.sigmoid(value)
        line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
        tl.store(y + line * channels + channel, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def group_sums(tile, PADDED: tl.constexpr, GROUPS: tl.constexpr):
    """(ROWS, GROUPS · PADDED) → (1, GROUPS · PADDED): at every channel the sum over rows and its group."""
    of_groups = tl.sum(tl.reshape(tl.sum(tile, 0), (GROUPS, PADDED)), 1)[:, None]
    return tl.reshape(tl.broadcast_to(of_groups, (GROUPS, PADDED)), (1, GROUPS * PADDED))


@triton.jit(do_not_specialize=RUNTIME)
def gradient_sums_kernel(x, skip, offset, weight, bias, modulation, mean, rstd, dy, partials, rows, channels,
                         x_channels, inner, period, offset_periods, modulation_stride, groups, width, chunk, chunks,
                         SKIP: tl.constexpr, OFFSET: tl.constexpr, MODULATION: tl.constexpr, SILU: tl.constexpr,
                         ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """partials (samples, chunks, 2, channels): sums of the gradient before SiLU, alone and times the normalised x."""
    n, part = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = channel < channels
    factor, summand, _ = load_affine(weight, bias, modulation, n, channel, inside, channels, modulation_stride,
                                     MODULATION)  # fmt: skip
    center = tl.load(mean + n * groups + channel // width, mask=inside, other=0.0)
    spread = tl.load(rstd + n * groups + channel // width, mask=inside, other=0.0)
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, chunk, ROWS):
        row = (part * chunk + start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
        gradient = tl.load(dy + line * channels + channel, mask=mask, other=0.0).to(tl.float32)
        normal = (value - center) * spread
        if SILU:
            gradient *= silu_slope(normal * factor + summand)
        sums += gradient
        products += gradient * normal
    out = partials + tl.program_id(0).to(tl.int64) * 2 * channels + channel
    tl.store(out, tl.sum(sums, 0)[None, :], mask=inside)
    tl.store(out + channels, tl.sum(products, 0)[None, :], mask=inside)


@triton.jit(do_not_specialize=RUNTIME)
def finalise_gradient_kernel(partials, weight, bias, modulation, d_affine, d_modulation, means, rows, channels, groups,
                             width, chunks, modulation_stride,
                             MODULATION: tl.constexpr, CHUNKS: tl.constexpr, PADDED: tl.constexpr):  # fmt: skip
    """Of one group: gradients of weight and bias, d_affine (samples, 2, channels), and of FiLM; and the two `means`
    (samples, groups, 2) over the group that the gradient of x needs."""
    n, group = tl.program_id(0), tl.program_id(1)
    own = tl.arange(0, PADDED)[None, :]
    channel, inside = group * width + own, own < width
    start_of_sample = partials + n.to(tl.int64) * chunks * 2 * channels + channel
    sums = tl.zeros((CHUNKS, PADDED), tl.float32)
    products = tl.zeros((CHUNKS, PADDED), tl.float32)
    for start in range(0, chunks, CHUNKS):
        part = (start + tl.arange(0, CHUNKS))[:, None]
        mask = (part < chunks) & inside
        sums += tl.load(start_of_sample + part * 2 * channels, mask=mask, other=0.0)
        products += tl.load(start_of_sample + part * 2 * channels + channels, mask=mask, other=0.0)
    sum_1d, product_1d = tl.sum(sums, 0)[None, :], tl.sum(products, 0)[None, :]
    factor = store_gradients(weight, bias, modulation, d_affine, d_modulation, n, channel, inside, channels,
                             modulation_stride, sum_1d, product_1d, MODULATION)  # fmt: skip
    size = rows.to(tl.float32) * width
    out = means + (n * groups + group) * 2
    tl.store(out, tl.sum(tl.sum(factor * sum_1d, 1), 0) / size)
    tl.store(out + 1, tl.sum(tl.sum(factor * product_1d, 1), 0) / size)


@triton.jit
def store_gradients(weight, bias, modulation, d_affine, d_modulation, n, channel, inside, channels, modulation_stride,
                    sums, products, MODULATION: tl.constexpr):  # fmt: skip
    """Write one sample's share of the gradients of weight, bias and FiLM; returns the factor of each channel."""
    factor, _, scale = load_affine(weight, bias, modulation, n, channel, inside, channels, modulation_stride,
                                   MODULATION)  # fmt: skip
    out = d_affine + n.to(tl.int64) * 2 * channels + channel
    tl.store(out, scale * products, mask=inside)
    tl.store(out + channels, scale * sums, mask=inside)
    if MODULATION:
        own_weight = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
        own_bias = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
        out = d_modulation + n.to(tl.int64) * 2 * channels + channel
        tl.store(out, own_weight * products + own_bias * sums, mask=inside)
        tl.store(out + channels, sums, mask=inside)
    return factor


@triton.jit
def store_dx(dx, d_skip, value, n, row, channel, mask, rows, channels, x_channels, inner, SKIP: tl.constexpr):
    line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
    value = value.to(dx.dtype.element_ty)
    if SKIP:
        tl.store(dx + line * x_channels + channel, value, mask=mask & (channel < x_channels))
        beside = d_skip + line * (channels - x_channels) + (channel - x_channels)
        tl.store(beside, value, mask=mask & (channel >= x_channels))
    else:
        tl.store(dx + line * channels + channel, value, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def gradient_kernel(x, skip, offset, weight, bias, modulation, mean, rstd, dy, means, dx, d_skip, rows, channels,
                    x_channels, inner, period, offset_periods, modulation_stride, groups, width, chunk, chunks,
                    SKIP: tl.constexpr, OFFSET: tl.constexpr, MODULATION: tl.constexpr, SILU: tl.constexpr,
                    ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    n, part = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = channel < channels
    factor, summand, _ = load_affine(weight, bias, modulation, n, channel, inside, channels, modulation_stride,
                                     MODULATION)  # fmt: skip
    group = n * groups + channel // width
    center = tl.load(mean + group, mask=inside, other=0.0)
    spread = tl.load(rstd + group, mask=inside, other=0.0)
    mean_sum = tl.load(means + group * 2, mask=inside, other=0.0)
    mean_product = tl.load(means + group * 2 + 1, mask=inside, other=0.0)
    for start in range(0, chunk, ROWS):
        row = (part * chunk + start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
        gradient = tl.load(dy + line * channels + channel, mask=mask, other=0.0).to(tl.float32)
        normal = (value - center) * spread
        if SILU:
            gradient *= silu_slope(normal * factor + summand)
        gradient = spread * (gradient * factor - mean_sum - normal * mean_product)
        store_dx(dx, d_skip, gradient, n, row, channel, mask, rows, channels, x_channels, inner, SKIP)


@triton.jit(do_not_specialize=RUNTIME)
def small_gradient_kernel(x, skip, offset, weight, bias, modulation, mean, rstd, dy, d_affine, d_modulation, dx, d_skip,
                          rows, channels, x_channels, inner, period, offset_periods, modulation_stride, groups,
                          SKIP: tl.constexpr, OFFSET: tl.constexpr, MODULATION: tl.constexpr, SILU: tl.constexpr,
                          ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
                          GROUPS: tl.constexpr):  # fmt: skip
    """All of the backward for `GROUPS` groups of one sample."""
    n, block = tl.program_id(0), tl.program_id(1)
    channel_1d, inside_1d = group_channels(block, groups, WIDTH, PADDED, GROUPS)
    channel, inside = channel_1d[None, :], inside_1d[None, :]
    factor, summand, _ = load_affine(weight, bias, modulation, n, channel, inside, channels, modulation_stride,
                                     MODULATION)  # fmt: skip
    center = tl.load(mean + n * groups + channel // WIDTH, mask=inside, other=0.0)
    spread = tl.load(rstd + n * groups + channel // WIDTH, mask=inside, other=0.0)
    sums = tl.zeros((ROWS, GROUPS * PADDED), tl.float32)
    products = tl.zeros((ROWS, GROUPS * PADDED), tl.float32)
    for start in range(0, rows, ROWS):
        row = (start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
        gradient = tl.load(dy + line * channels + channel, mask=mask, other=0.0).to(tl.float32)
        normal = (value - center) * spread
        if SILU:
            gradient *= silu_slope(normal * factor + summand)
        sums += gradient
        products += gradient * normal
    store_gradients(weight, bias, modulation, d_affine, d_modulation, n, channel, inside, channels, modulation_stride,
                    tl.sum(sums, 0)[None, :], tl.sum(products, 0)[None, :], MODULATION)  # fmt: skip
    size = rows.to(tl.float32) * WIDTH
    mean_sum = group_sums(sums * factor, PADDED, GROUPS) / size
    mean_product = group_sums(products * factor, PADDED, GROUPS) / size
    for start in range(0, rows, ROWS):
        row = (start + tl.arange(0, ROWS))[:, None]
        mask = (row < rows) & inside
        value = load_tile(x, skip, offset, n, row, channel, mask, rows, channels, x_channels, inner, period,
                          offset_periods, SKIP, OFFSET)  # fmt: skip
        line = ((n // inner).to(tl.int64) * rows + row) * inner + n % inner
        gradient = tl.load(dy + line * channels + channel, mask=mask, other=0.0).to(tl.float32)
        normal = (value - center) * spread
        if SILU:
            gradient *= silu_slope(normal * factor + summand)
        gradient = spread * (gradient * factor - mean_sum - normal * mean_product)
        store_dx(dx, d_skip, gradient, n, row, channel, mask, rows, channels, x_channels, inner, SKIP)
