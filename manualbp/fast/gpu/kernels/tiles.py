"""What all kernels use: blocks of matrices, and the product of two.

Every product adds in float32. PRECISION says how float32 factors are multiplied: "ieee" as they
are, "tf32" rounded to 11 bits, for tensor cores. Indices have the type of ``rows``, ``columns`` and
INDEX: 64 bits in whole matrices; 32 within a tile, which takes half the registers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load(p, rows, columns, row_stride, column_stride, R, C):
    """The block of an (R, C) matrix at these rows and columns; 0 outside the matrix."""
    at = rows[:, None] * row_stride + columns[None, :] * column_stride
    return tl.load(p + at, mask=(rows[:, None] < R) & (columns[None, :] < C), other=0.0)


# TRITON_INTERPRET=1: kernels run on CPU tensors, in NumPy.
INTERPRETED = tl.constexpr(not isinstance(load, triton.JITFunction))


@triton.jit
def cast(x, dtype: tl.constexpr):
    """float32 in another dtype, to nearest. The interpreter would cut bfloat16's bits off."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def store(p, values, rows, columns, row_stride, R, C):
    """Write the block into an (R, C) matrix with this ``row_stride``."""
    at = rows[:, None] * row_stride + columns[None, :]
    inside = (rows[:, None] < R) & (columns[None, :] < C)
    tl.store(p + at, cast(values, p.dtype.element_ty), mask=inside)


@triton.jit
def product(
    x, x_rows, x_row_stride, x_column_stride, X_ROWS,
    y, y_columns, y_row_stride, y_column_stride, Y_COLUMNS,
    total, K, INDEX: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total + X Y at these rows of X (X_ROWS, K) and columns of Y (K, Y_COLUMNS)."""
    for start in range(0, K, STEP):
        k = start + tl.arange(0, STEP).to(INDEX)
        left = load(x, x_rows, k, x_row_stride, x_column_stride, X_ROWS, K)
        right = load(y, k, y_columns, y_row_stride, y_column_stride, K, Y_COLUMNS)
        if INTERPRETED:  # the interpreter reads bfloat16 as the integers that store it
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total
