"""Forward, loss, the delta recursion and all gradients of a narrow net, in one launch.

    for each tile of rows:   a_l = f_l(a_{l-1} W_l^T + b_l),   C += C(o, y),   delta_L = dC/do f'_L
                             dC/dW_l += delta_l^T a_{l-1},     dC/db_l += sum_n delta_l
                             delta_{l-1} = (delta_l W_l) f'_{l-1}

A program takes every so many-th tile. What it finds of a tile on the way up, it reads on the way
down: that is in a scratch of its own, which is written over with every tile and so never leaves the
multiprocessor's and the device's caches. (Held in variables instead, a net of 128 columns takes
twice the shared memory there is, or spills a kilobyte for each thread.) Blocks of products go
through registers and shared memory. x and y are read once, and nothing of their length is written
but dC/dx.

Every program adds up its own tiles, in order, and afterwards their sums are added up in order: the
same bits every time, on the same device. dC/db and C add up in float64, since autograd sums a
vector in one go. Nothing is divided by the number of errors: so deltas of half precision do not
vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from manualbp.kernels import errors, functions
from manualbp.kernels.errors import cross_entropy, elementwise
from manualbp.kernels.functions import f, slope
from manualbp.kernels.launch import LEAST, on, power_of_2, precision
from manualbp.kernels.tiles import cast, load, product, store

WIDEST = 128
ROWS, WARPS, PROGRAMS = 64, 8, 2  # of a tile; of a program; programs for each multiprocessor
INTERPRETED_PROGRAMS = 4


class Sums(NamedTuple):
    """What all programs found: over all errors, divided by nothing."""

    cost: Tensor  # (), float64
    weights: Tensor  # (sum_l O_l I_l,), float32: every dC/dW, one behind the other
    biases: Tensor  # (sum_l O_l,), float64: every dC/db
    input: Tensor  # dC/dx, or nothing


@triton.jit
def _up(
    x, ws, bs, own, tile_rows, L: tl.constexpr, D: tl.constexpr, PAD: tl.constexpr,
    A: tl.constexpr, Z: tl.constexpr, BIAS: tl.constexpr, F: tl.constexpr, p: tl.constexpr,
    q: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """o of a tile; every z that f' reads and every a go to the scratch."""
    rows = tl.arange(0, ROWS)
    a = tl.zeros((ROWS, PAD[L]), tl.float32)
    for l in tl.static_range(L):
        columns = tl.arange(0, PAD[l + 1])
        z = tl.zeros((ROWS, PAD[l + 1]), tl.float32)
        if l == 0:
            z = product(x, rows, D[0], 1, tile_rows, ws[0], columns, 1, D[0], D[1],
                        z, D[0], tl.int32, STEP, PRECISION)  # fmt: skip
        else:
            z = product(own + A[l], rows, PAD[l], 1, ROWS, ws[l], columns, 1, D[l], D[l + 1],
                        z, D[l], tl.int32, STEP, PRECISION)  # fmt: skip
        if BIAS[l]:
            b = tl.load(bs[l] + columns, mask=columns < D[l + 1], other=0.0)
            z += b.to(tl.float32)[None, :]
        a_l = f(z, F[l], p[l], q[l])
        if Z[l + 1] >= 0:
            store(own + Z[l + 1], z, rows, columns, PAD[l + 1], ROWS, PAD[l + 1])
        if A[l + 1] >= 0:
            store(own + A[l + 1], a_l, rows, columns, PAD[l + 1], ROWS, PAD[l + 1])
        tl.debug_barrier()  # other threads read what was stored
        if l == L - 1:
            a = a_l
    return a


@triton.jit
def _down(
    x, ws, own, weights, biases, grad_x, delta, tile_rows, L: tl.constexpr, LAST: tl.constexpr,
    D: tl.constexpr, PAD: tl.constexpr, A: tl.constexpr, C: tl.constexpr, DELTA: tl.constexpr,
    W_AT: tl.constexpr, B_AT: tl.constexpr, NEED_W: tl.constexpr, NEED_B: tl.constexpr,
    NEED_X: tl.constexpr, F: tl.constexpr, p: tl.constexpr, q: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The tile's gradients added to the program's own, from delta = dC/da_L; down to layer LAST."""
    rows = tl.arange(0, ROWS)
    at = own + DELTA
    for l in tl.static_range(L - 1, LAST - 1, -1):
        columns = tl.arange(0, PAD[l + 1])
        if F[l] != "none":
            known = load(own + C[l + 1], rows, columns, PAD[l + 1], 1, ROWS, PAD[l + 1])
            delta *= slope(known.to(tl.float32), F[l], p[l], q[l])
        store(at, delta, rows, columns, PAD[l + 1], ROWS, PAD[l + 1])
        tl.debug_barrier()
        if NEED_B[l]:
            place = biases + B_AT[l] + columns
            before = tl.load(place, mask=columns < D[l + 1], other=0.0)
            tl.store(place, before + tl.sum(delta, 0).to(tl.float64), mask=columns < D[l + 1])
        below = tl.arange(0, PAD[l])
        if NEED_W[l]:
            place = weights + W_AT[l]
            total = load(place, columns, below, D[l], 1, D[l + 1], D[l])
            if l == 0:
                total = product(at, columns, 1, PAD[1], PAD[1], x, below, D[0], 1, D[0],
                                total, tile_rows, tl.int32, STEP, PRECISION)  # fmt: skip
            else:
                total = product(at, columns, 1, PAD[l + 1], PAD[l + 1], own + A[l], below, PAD[l],
                                1, PAD[l], total, ROWS, tl.int32, STEP, PRECISION)  # fmt: skip
            store(place, total, columns, below, D[l], D[l + 1], D[l])
        if l > LAST or NEED_X:
            down = tl.zeros((ROWS, PAD[l]), tl.float32)
            down = product(at, rows, PAD[l + 1], 1, ROWS, ws[l], below, D[l], 1, D[l],
                           down, D[l + 1], tl.int32, STEP, PRECISION)  # fmt: skip
            if l == 0:
                store(grad_x, down, rows, below, D[0], tile_rows, D[0])
            delta = down
        tl.debug_barrier()  # before delta is written over


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
        x_tile, grad_tile = x + start * D[0], grad_x + start * D[0]
        o = _up(x_tile, ws, bs, own, tile_rows, L, D, PAD, A, Z, BIAS, F, p, q,
                PRECISION, ROWS, STEP)  # fmt: skip
        o = cast(o, x.dtype.element_ty).to(tl.float32)  # as it leaves a network
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
        _down(x_tile, ws, own, weights, biases, grad_tile, delta, tile_rows, L, LAST, D, PAD, A, C,
              DELTA, W_AT, B_AT, NEED_W, NEED_B, NEED_X, F, p, q, PRECISION, ROWS,
              STEP)  # fmt: skip
    tl.store(costs + program, total)


class Plan(NamedTuple):
    """Where everything lies: in the scratch of a program and in the sums."""

    widths: tuple[int, ...]
    padded: tuple[int, ...]
    a: tuple[int, ...]  # of a_l in the scratch, -1 where it is not kept
    z: tuple[int, ...]
    read: tuple[int, ...]  # of what f' is computed from
    delta: int
    size: int
    weights: tuple[int, ...]  # of dC/dW in the sums, and behind the last one
    biases: tuple[int, ...]


def plan(widths: Sequence[int], from_z: Sequence[bool], rows: int) -> Plan:
    """The plan for these widths; ``from_z`` says whose f' is computed from z."""
    padded = tuple(power_of_2(width) for width in widths)
    a, z, free = [-1], [-1], 0
    for l, by_z in enumerate(from_z, start=1):
        hidden = l < len(from_z)
        places = []
        for keep in (hidden or not by_z, by_z):
            places.append(free if keep else -1)
            free += rows * padded[l] if keep else 0
        a.append(places[0])
        z.append(places[1])
    read = [z_l if z_l >= 0 else a_l for a_l, z_l in zip(a, z, strict=True)]
    weights, biases = [0], [0]
    for inputs, outputs in pairwise(widths):
        weights.append(weights[-1] + inputs * outputs)
        biases.append(biases[-1] + outputs)
    return Plan(tuple(widths), padded, tuple(a), tuple(z), tuple(read), free,
                free + rows * max(padded), tuple(weights), tuple(biases))  # fmt: skip


def step(
    x: Tensor, y: Tensor, ws: Sequence[Tensor], bs: Sequence[Tensor | None],
    codes: Sequence[functions.Code], from_z: Sequence[bool], loss: errors.Code,
    need_x: bool, need_w: Sequence[bool], need_b: Sequence[bool],
) -> Sums:  # fmt: skip
    """C, every dC/dW and dC/db, and dC/dx, of the sum of all errors.

    Args:
        x: (N, I), at least one row, contiguous.
        y: (N, O) contiguous, or class indices (N,).
        ws: (O_l, I_l) contiguous, of x's dtype.
        bs: (O_l,) or None.
        codes: f of every layer.
        from_z: whether f' of it is computed from z.
        loss: which C.
        need_x: whether dC/dx is wanted.
        need_w: which dC/dW are.
        need_b: which dC/db are.
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
    how = precision(x)
    with on(x):
        _chain[(programs,)](
            x, y, tuple(ws), tuple(w if b is None else b for w, b in zip(ws, bs, strict=True)),
            scratch, weights, biases, costs, grad_x, n,
            len(ws), last, at.widths, at.padded, at.a, at.z, at.read, at.delta, at.size,
            at.weights, at.biases, tuple(b is not None for b in bs), tuple(need_w), tuple(need_b),
            need_x, *zip(*codes, strict=True), *loss, how,
            ROWS, LEAST if how == "ieee" and x.dtype is torch.float32 else 2 * LEAST,
            num_warps=WARPS,
        )  # fmt: skip
    return Sums(costs.sum(), weights.sum(0), biases.sum(0), grad_x)


def _programs(x: Tensor) -> int:
    if not x.is_cuda:
        return INTERPRETED_PROGRAMS
    return PROGRAMS * torch.cuda.get_device_properties(x.device).multi_processor_count
