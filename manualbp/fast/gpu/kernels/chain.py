"""Forward, loss, the delta recursion and all gradients of a narrow net, in one launch.

    for each tile of rows:   a_l = f_l(a_{l-1} W_l^T + b_l),   C += C(o, y),   delta_L = dC/do f'_L
                             dC/dW_l += delta_l^T a_{l-1},     dC/db_l += sum_n delta_l
                             delta_{l-1} = (delta_l W_l) f'_{l-1}

With P programs, each takes every P-th tile. What it computes for a tile on the way up, it reads on
the way down, from a scratch of its own. Every tile writes over the scratch, so it stays in the
caches. (Held in variables, a net of 128 columns needs twice the shared memory there is, or spills a
kilobyte for each thread.) Blocks of products go through registers and shared memory. x and y are
read once. Of tensors as long as x, only dC/dx is written.

Every program adds up its own tiles in order. Then the programs' sums are added up in order. So the
same device gives the same bits every time. dC/db and C add up in float64, since autograd sums a
vector in one go. Nothing is divided by the number of errors, so deltas of half precision do not
become 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from manualbp.fast.gpu.kernels import errors, functions
from manualbp.fast.gpu.kernels.errors import cross_entropy, elementwise
from manualbp.fast.gpu.kernels.functions import f, through
from manualbp.fast.gpu.kernels.launch import on, power_of_2, precision
from manualbp.fast.gpu.kernels.tiles import cast, load, product, store

# Rows of a tile and terms of a product's step: with these, 8 warps spill hardly any registers.
# Programs for each multiprocessor: two of a wide net take all its registers.
ROWS, STEP, WARPS, PROGRAMS = 64, 16, 8, 2
INTERPRETED_PROGRAMS = 4


class StepSums(NamedTuple):
    """The sums of all programs, over all errors, divided by nothing."""

    cost: Tensor  # (), float64
    weights: Tensor  # (sum_l O_l I_l,), float32: every dC/dW, one after the other
    biases: Tensor  # (sum_l O_l,), float64: every dC/db
    input: Tensor  # dC/dx, or empty


@triton.jit
def _up(
    h, h_row, H_ROWS, w, b, z_at, a_at, I: tl.constexpr, O: tl.constexpr, WIDE: tl.constexpr,
    BIAS: tl.constexpr, KEEP_Z: tl.constexpr, KEEP_A: tl.constexpr,
    F: tl.constexpr, p: tl.constexpr, q: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """a of a tile and a layer. The scratch keeps a and z where they are read again."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, WIDE)
    z = tl.zeros((ROWS, WIDE), tl.float32)
    z = product(h, rows, h_row, 1, H_ROWS, w, columns, 1, I, O, z, I, tl.int32, STEP, PRECISION)
    if BIAS:
        z += tl.load(b + columns, mask=columns < O, other=0.0).to(tl.float32)[None, :]
    if KEEP_Z:
        store(z_at, z, rows, columns, WIDE, ROWS, WIDE)
    a = f(z, F, p, q)
    if KEEP_A:
        store(a_at, a, rows, columns, WIDE, ROWS, WIDE)
    tl.debug_barrier()  # other threads read what was stored
    return a


@triton.jit
def _down(
    delta, known, at, h, h_row, H_ROWS, H_COLUMNS, w, weights, biases,
    I: tl.constexpr, O: tl.constexpr, BELOW: tl.constexpr, WIDE: tl.constexpr,
    NEED_H: tl.constexpr, NEED_W: tl.constexpr, NEED_B: tl.constexpr,
    F: tl.constexpr, p: tl.constexpr, q: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """dC/dh of a tile and a layer, from delta = dC/da. Adds to the program's dC/dW and dC/db."""
    rows, columns, below = tl.arange(0, ROWS), tl.arange(0, WIDE), tl.arange(0, BELOW)
    if F != "none":
        read = load(known, rows, columns, WIDE, 1, ROWS, WIDE)
        delta = through(delta, read.to(tl.float32), F, p, q)
    store(at, delta, rows, columns, WIDE, ROWS, WIDE)
    tl.debug_barrier()
    if NEED_B:
        before = tl.load(biases + columns, mask=columns < O, other=0.0)
        tl.store(biases + columns, before + tl.sum(delta, 0).to(tl.float64), mask=columns < O)
    if NEED_W:
        total = load(weights, columns, below, I, 1, O, I)
        total = product(at, columns, 1, WIDE, WIDE, h, below, h_row, 1, H_COLUMNS,
                        total, H_ROWS, tl.int32, STEP, PRECISION)  # fmt: skip
        store(weights, total, columns, below, I, O, I)
    grad = tl.zeros((ROWS, BELOW), tl.float32)
    if NEED_H:
        grad = product(at, rows, WIDE, 1, ROWS, w, below, I, 1, I,
                       grad, O, tl.int32, STEP, PRECISION)  # fmt: skip
    tl.debug_barrier()  # before delta is written over
    return grad


@triton.jit
def _chain(
    x, y, ws, bs, scratch, weights, biases, costs, grad_x, N,
    L: tl.constexpr, LAST: tl.constexpr, D: tl.constexpr, PAD: tl.constexpr, A: tl.constexpr,
    Z: tl.constexpr, C: tl.constexpr, DELTA: tl.constexpr, SIZE: tl.constexpr,
    W_AT: tl.constexpr, B_AT: tl.constexpr, BIAS: tl.constexpr, NEED_W: tl.constexpr,
    NEED_B: tl.constexpr, NEED_X: tl.constexpr, F: tl.constexpr, p: tl.constexpr, q: tl.constexpr,
    COST: tl.constexpr, COST_P: tl.constexpr, IGNORED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """All tiles of one program."""
    program = tl.program_id(0)
    own = scratch + program.to(tl.int64) * SIZE
    weights += program.to(tl.int64) * W_AT[L]
    biases += program.to(tl.int64) * B_AT[L]
    rows, columns = tl.arange(0, ROWS), tl.arange(0, PAD[L])
    total = tl.full((), 0.0, tl.float64)
    for tile in range(program, tl.cdiv(N, ROWS), tl.num_programs(0)):
        start = tile * tl.full((), ROWS, tl.int64)
        tile_rows = tl.minimum(N - start, ROWS).to(tl.int32)
        x_tile = x + start * D[0]
        a = _up(x_tile, D[0], tile_rows, ws[0], bs[0], own + Z[1], own + A[1], D[0], D[1], PAD[1],
                BIAS[0], Z[1] >= 0, A[1] >= 0, tl.constexpr(F[0]), p[0], q[0], PRECISION, ROWS,
                STEP)  # fmt: skip
        for l in tl.static_range(1, L):
            a = _up(own + A[l], PAD[l], ROWS, ws[l], bs[l], own + Z[l + 1], own + A[l + 1],
                    D[l], D[l + 1], PAD[l + 1], BIAS[l], Z[l + 1] >= 0, A[l + 1] >= 0,
                    tl.constexpr(F[l]), p[l], q[l], PRECISION, ROWS, STEP)  # fmt: skip
        o = cast(a, x.dtype.element_ty).to(tl.float32)  # rounded as a network's output
        inside = rows < tile_rows
        if COST == "cross_entropy":
            label = tl.load(y + start + rows, mask=inside, other=IGNORED)
            cost, delta = cross_entropy(o, label, columns, D[L], COST_P)
            counts = label != IGNORED
            delta = tl.where(counts[:, None] & (columns < D[L])[None, :], delta, 0.0)
            total += tl.sum(tl.where(counts, cost, 0.0)).to(tl.float64)
        else:
            target = load(y + start * D[L], rows, columns, D[L], 1, tile_rows, D[L])
            cost, delta = elementwise(o, target.to(tl.float32), COST, COST_P)
            real = inside[:, None] & (columns < D[L])[None, :]
            delta = tl.where(real, delta, 0.0)
            total += tl.sum(tl.where(real, cost, 0.0)).to(tl.float64)
        for l in tl.static_range(L - 1, LAST - 1, -1):
            if l > 0:
                delta = _down(
                    delta, own + C[l + 1], own + DELTA, own + A[l], PAD[l], ROWS, PAD[l], ws[l],
                    weights + W_AT[l], biases + B_AT[l], D[l], D[l + 1], PAD[l], PAD[l + 1],
                    l > LAST or NEED_X, NEED_W[l], NEED_B[l], tl.constexpr(F[l]), p[l], q[l],
                    PRECISION, ROWS, STEP,
                )  # fmt: skip
            else:
                delta = _down(
                    delta, own + C[1], own + DELTA, x_tile, D[0], tile_rows, D[0], ws[0],
                    weights, biases, D[0], D[1], PAD[0], PAD[1],
                    NEED_X, NEED_W[0], NEED_B[0], tl.constexpr(F[0]), p[0], q[0],
                    PRECISION, ROWS, STEP,
                )  # fmt: skip
                if NEED_X:
                    store(grad_x + start * D[0], delta, rows, tl.arange(0, PAD[0]), D[0],
                          tile_rows, D[0])  # fmt: skip
    tl.store(costs + program, total)


class Schedule(NamedTuple):
    """Places in the scratch of a program and in the sums."""

    widths: tuple[int, ...]
    padded: tuple[int, ...]
    a: tuple[int, ...]  # of a_l in the scratch; -1 where it is not kept
    z: tuple[int, ...]
    read: tuple[int, ...]  # of what f' is computed from
    delta: int
    size: int
    weights: tuple[int, ...]  # of dC/dW in the sums, and their length
    biases: tuple[int, ...]


def plan(widths: Sequence[int], from_z: Sequence[bool], rows: int) -> Schedule:
    """The plan for these widths; ``from_z``: whether a layer's f' is computed from z."""
    padded = tuple(power_of_2(width) for width in widths)
    a, z, free = [-1], [-1], 0
    for l, by_z in enumerate(from_z, start=1):
        hidden = l < len(from_z)
        for places, keep in ((a, hidden or not by_z), (z, by_z)):
            places.append(free if keep else -1)
            free += rows * padded[l] if keep else 0
    read = [z_l if z_l >= 0 else a_l for a_l, z_l in zip(a, z, strict=True)]
    weights = accumulate((i * o for i, o in pairwise(widths)), initial=0)
    biases = accumulate(widths[1:], initial=0)
    return Schedule(tuple(widths), padded, tuple(a), tuple(z), tuple(read), free,
                free + rows * max(padded), tuple(weights), tuple(biases))  # fmt: skip


def step(
    x: Tensor, y: Tensor, ws: Sequence[Tensor], bs: Sequence[Tensor | None],
    codes: Sequence[functions.ActivationCode], from_z: Sequence[bool], loss: errors.LossCode,
    need_x: bool, need_w: Sequence[bool], need_b: Sequence[bool],
) -> StepSums:  # fmt: skip
    """C, every dC/dW and dC/db, and dC/dx, of the sum of all errors.

    Args:
        x: (N, I), at least one row, contiguous.
        y: (N, O) contiguous, or class indices (N,).
        ws: (O_l, I_l) contiguous, of x's dtype.
        bs: (O_l,) or None.
        codes: f of every layer.
        from_z: of every layer, whether f' is computed from z.
        loss: C.
        need_x: whether dC/dx is wanted.
        need_w: which dC/dW are wanted.
        need_b: which dC/db are wanted.
    """
    n, wants = len(x), [w or b for w, b in zip(need_w, need_b, strict=True)]
    last = 0 if need_x else next((l for l, want in enumerate(wants) if want), len(ws))
    at = plan([x.shape[1], *(len(w) for w in ws)], from_z, ROWS)
    programs = min(triton.cdiv(n, ROWS), _programs(x))
    scratch = x.new_empty(programs, at.size)
    weights = x.new_zeros(programs, at.weights[-1], dtype=torch.float32)
    biases = x.new_zeros(programs, at.biases[-1], dtype=torch.float64)
    costs = x.new_empty(programs, dtype=torch.float64)
    grad_x = torch.empty_like(x) if need_x else x.new_empty(0)
    with on(x):
        _chain[(programs,)](
            x, y, tuple(ws), tuple(w if b is None else b for w, b in zip(ws, bs, strict=True)),
            scratch, weights, biases, costs, grad_x, n,
            len(ws), last, at.widths, at.padded, at.a, at.z, at.read, at.delta, at.size,
            at.weights, at.biases, tuple(b is not None for b in bs), tuple(need_w), tuple(need_b),
            need_x, *zip(*codes, strict=True), *loss, precision(x), ROWS, STEP, num_warps=WARPS,
        )  # fmt: skip
    return StepSums(costs.sum(), weights.sum(0), biases.sum(0), grad_x)


def _programs(x: Tensor) -> int:
    if not x.is_cuda:
        return INTERPRETED_PROGRAMS
    return PROGRAMS * torch.cuda.get_device_properties(x.device).multi_processor_count
