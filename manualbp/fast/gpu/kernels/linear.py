"""A linear layer with the activation behind it, and its backward with the activation before it.

    a = f(h W^T + b)                            bias and f while the product's tile is in registers
    delta_below = (delta W) * f'(z_below)       f' likewise
    sums = sum_n delta_below                    dC/db of the layer below, tile by tile

h (N, I), W (O, I), b (O,), a and delta (N, O), delta_below and z_below (N, I); h, W, delta and
z_below with any strides. Products and sums add in float32. Sums of tiles are added up in the order
of the tiles, so the bits are the same every time. Source: Nielsen ch. 2, BP1-BP3.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from manualbp.fast.gpu.kernels.functions import ActivationCode, f, through
from manualbp.fast.gpu.kernels.launch import on, power_of_2, precision
from manualbp.fast.gpu.kernels.tiles import load, product, store


@triton.jit
def _forward(
    h, w, b, a, z, N, I, O, h_row, h_column, w_row, w_column,
    F: tl.constexpr, p: tl.constexpr, q: tl.constexpr, BIAS: tl.constexpr, KEEP: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """A tile of a, and of z where f' will read it."""
    across = tl.cdiv(O, COLUMNS)
    rows = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total = product(h, rows, h_row, h_column, N, w, columns, w_column, w_row, O,
                    total, I, tl.int64, STEP, PRECISION)  # fmt: skip
    if BIAS:
        total += tl.load(b + columns, mask=columns < O, other=0.0).to(tl.float32)[None, :]
    if KEEP:
        store(z, total, rows, columns, O, N, O)
    store(a, f(total, F, p, q), rows, columns, O, N, O)


@triton.jit
def _input_gradient(
    delta, w, cache, below, sums, N, I, O, d_row, d_column, w_row, w_column, c_row, c_column,
    F: tl.constexpr, p: tl.constexpr, q: tl.constexpr, SUMS: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """A tile of delta_below, and the sum of its rows."""
    across = tl.cdiv(I, COLUMNS)
    tile = tl.program_id(0) // across
    rows = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total = product(delta, rows, d_row, d_column, N, w, columns, w_row, w_column, I,
                    total, O, tl.int64, STEP, PRECISION)  # fmt: skip
    known = load(cache, rows, columns, c_row, c_column, N, I).to(tl.float32)
    total = through(total, known, F, p, q)
    store(below, total, rows, columns, I, N, I)
    if SUMS:
        inside = tl.where((rows < N)[:, None], total, 0.0)
        tl.store(sums + tile.to(tl.int64) * I + columns, tl.sum(inside, 0), mask=columns < I)


def forward(
    h: Tensor, weight: Tensor, bias: Tensor | None, code: ActivationCode, keep: bool
) -> tuple[Tensor, Tensor]:
    """a = f(h W^T + b), and z where ``keep``, else an empty tensor."""
    (n, i), o = h.shape, weight.shape[0]
    a = h.new_empty(n, o)
    z = h.new_empty(n, o) if keep else h.new_empty(0)
    if a.numel():
        rows, columns, step, warps = _block(n, o, h)
        b = h if bias is None else bias
        with on(h):
            _forward[(triton.cdiv(n, rows) * triton.cdiv(o, columns),)](
                h, weight, b, a, z, n, i, o, *h.stride(), *weight.stride(),
                *code, bias is not None, keep, precision(h), rows, columns, step, num_warps=warps,
            )  # fmt: skip
    return a, z


def input_gradient(
    delta: Tensor, weight: Tensor, cache: Tensor, code: ActivationCode, sums: bool
) -> tuple[Tensor, Tensor]:
    """(delta W) * f'(cache), and where ``sums`` the sum of its rows, else an empty tensor."""
    (n, o), i = delta.shape, weight.shape[1]
    below = delta.new_empty(n, i)
    rows, columns, step, warps = _block(n, i, delta)
    tiles = triton.cdiv(n, rows)
    parts = delta.new_empty(tiles if sums else 0, i, dtype=torch.float32)
    if below.numel():
        with on(delta):
            _input_gradient[(tiles * triton.cdiv(i, columns),)](
                delta, weight, cache, below, parts, n, i, o,
                *delta.stride(), *weight.stride(), *cache.stride(),
                *code, sums, precision(delta), rows, columns, step, num_warps=warps,
            )  # fmt: skip
    return below, parts.sum(0).to(delta.dtype) if sums else delta.new_empty(0)


def _block(n: int, columns: int, x: Tensor) -> tuple[int, int, int, int]:
    """Rows, columns and terms of a block, and the warps that share it.

    The block's sums fill half of a multiprocessor's registers. Without tensor cores the factors of
    float32 lie in registers as well, so a step has fewer of them.
    """
    across = min(power_of_2(columns), 128)
    down = min(power_of_2(n), 128 if across <= 64 else 64)
    plain = x.dtype is torch.float32 and precision(x) == "ieee"
    return down, across, 16 if plain else 32, 8 if down * across >= 64 * 128 else 4
