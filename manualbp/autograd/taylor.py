"""maths/taylor.py as a torch.autograd.Function: u, du and d2u of a chain, in one node.

The jets go one tile of points after the other, so they stay in the cache. Between the passes those
of a small batch are kept; of a larger one x and the parameters alone, and the jets are computed
again. Where backward is recorded, they are computed from the x and the parameters that carry their
graphs, in that graph. So derivatives of what is returned are right to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.autograd.recomputed import with_graph
from manualbp.autograd.stages import Stages
from manualbp.autograd.torch_internals import nobody_records, wanted
from manualbp.maths import backprop, taylor
from manualbp.maths.layers import total
from manualbp.maths.order import Order
from manualbp.maths.taylor import Jet, Stage

Gradients = tuple[Tensor | None, list[Tensor | None]]  # dC/dx, every dC/dtheta


class Derivatives(torch.autograd.Function):
    """``apply_derivatives(stages, order, lines, *stages.parameters, x)``: u, du and d2u.

    lines: v (K, I), or (N, K, I) of each point's own. d2u is left out where the order has none.
    """

    @staticmethod
    def forward(ctx: Any, stages: Stages, order: Order, lines: Tensor, *tensors: Any) -> Any:
        *parameters, x = tensors
        values = [None if t is None else t.detach() for t in parameters]
        trained = ctx.needs_input_grad[3:-1]
        graphs = [t if trains else None for t, trains in zip(parameters, trained, strict=True)]
        tile = stages.tile(order.rows, x.itemsize)
        keeps = any(ctx.needs_input_grad) and stages.keeps(len(x), order.rows, x.itemsize)
        tapes: list[taylor.Tape] | None = [] if keeps else None
        found = _up(x, lines, stages.whole, order, tile, tapes)
        flat = [part for tape in tapes or () for jet in tape for part in jet]
        ctx.save_for_backward(lines, x, *values, *graphs, *flat)
        ctx.stages, ctx.order = stages, order
        ctx.present = (True, *stages.present, True)  # lines, parameters, x
        ctx.set_materialize_grads(False)
        return tuple(_shown(found, order))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        lines, x, *saved = ctx.saved_tensors
        _, *wants, wants_x = wanted(ctx, ctx.needs_input_grad[2:], ctx.present)
        if not (wants_x or any(wants)) or all(g is None for g in grad_outputs):
            return None, None, None, *[None] * (len(wants) + 1)
        count = len(wants)
        before = Saved(
            lines, x, saved[:count], saved[count : 2 * count], ctx.needs_input_grad[-1],
            saved[2 * count :],
        )  # fmt: skip
        grad_x, grads = gradients(ctx.stages, ctx.order, before, grad_outputs, wants, wants_x)
        return None, None, None, *grads, grad_x


apply_derivatives = torch_internals.applied(Derivatives)


class Saved(NamedTuple):
    """What forward had."""

    lines: Tensor | None  # None: the axes
    x: Tensor
    values: Sequence[Tensor | None]  # of every parameter, in the order of ``flat``
    graphs: Sequence[Tensor | None]  # the parameters themselves, those that wanted a gradient
    x_trained: bool  # whether x wanted one
    jets: Sequence[Tensor | None] = ()  # what every layer kept, tile by tile; empty for nothing


def gradients(
    stages: Stages, order: Order, saved: Saved, grads: Sequence[Tensor | None],
    wants: Sequence[bool], wants_x: bool,
) -> Gradients:  # fmt: skip
    """dC/dx and every dC/dtheta, from the gradients of what forward returned."""
    lines, x, values, graphs, x_trained, jets = saved
    lines = axes(x) if lines is None else lines
    recorded = torch.is_grad_enabled()
    if recorded:
        x = x if x_trained else x.detach()  # a constant at forward
        values = list(map(with_graph, values, graphs))
    thetas, by_layer = (backprop.by_layer(stages.layers, each) for each in (values, wants))
    todo = stages.of(thetas, by_layer, wants_x)
    whole = recorded or not all(g is None or nobody_records(g) for g in grads)
    tile = len(x) if whole else stages.tile(order.rows, x.itemsize)
    tapes = [] if whole else _tapes(jets, len(stages.layers))
    grad_x, found = _down(grads, x, lines, todo, order, tile, tapes)
    return grad_x if wants_x else None, found


def axes(x: Tensor) -> Tensor:
    """The directions of the axes, (I, I)."""
    return torch.eye(x.shape[1], dtype=x.dtype, device=x.device)


def _start(x: Tensor, lines: Tensor, part: slice) -> Jet:
    """x, its derivative along each line, and no second one."""
    first = lines[:, None] if lines.dim() == 2 else lines[part].transpose(0, 1)
    return Jet(x[part], first, None)


def _parts(x: Tensor, tile: int) -> list[slice]:
    return [slice(n, n + tile) for n in range(0, max(len(x), 1), max(tile, 1))]


def _tapes(jets: Sequence[Tensor | None], layers: int) -> list[taylor.Tape]:
    """The tape of each tile: a jet, which is three tensors, for each layer."""
    each = [Jet(*jets[i : i + 3]) for i in range(0, len(jets), 3)]
    return [each[i : i + layers] for i in range(0, len(each), layers)]


def _up(
    x: Tensor, lines: Tensor, todo: list[Stage], order: Order, tile: int,
    tapes: list[taylor.Tape] | None,
) -> Jet:  # fmt: skip
    """The jet of u: (N, O), (K, N, O), (P, N, O). Each tile's tape goes to ``tapes``."""
    found = []
    for part in _parts(x, tile):
        tape: taylor.Tape | None = None if tapes is None else []
        u, first, curved = taylor.forward(_start(x, lines, part), todo, order, tape)
        if tapes is not None and tape is not None:
            tapes.append(tape)
        shape = u.shape  # type: ignore[union-attr]
        first = first.expand(-1, *shape)  # type: ignore[union-attr]
        if order.pairs and curved is None:
            curved = u.new_zeros(order.seconds, *shape)  # type: ignore[union-attr]
        found.append((u, first, curved))
    if len(found) == 1:
        return Jet(*found[0])
    u, first, curved = zip(*found, strict=True)
    return Jet(torch.cat(u), torch.cat(first, 1), torch.cat(curved, 1) if order.pairs else None)


def _down(
    grads: Sequence[Tensor | None], x: Tensor, lines: Tensor, todo: list[Stage], order: Order,
    tile: int, tapes: list[taylor.Tape],
) -> Gradients:  # fmt: skip
    """dC/dx and every dC/dtheta, with the jets computed again where no ``tapes`` were kept."""
    grad_xs: list[Tensor | None] = []
    sums: list[Tensor | None] = []
    for number, part in enumerate(_parts(x, tile)):
        tape: taylor.Tape = []
        if tapes:
            tape = tapes[number]
        else:
            taylor.forward(_start(x, lines, part), todo, order, tape)
        g = _hidden([None if g is None else g[part] for g in grads], order)
        grad_x, thetas = taylor.backward(g, todo, order, tape)
        sums = list(map(total, sums, thetas)) if sums else thetas
        grad_xs.append(grad_x)
    there = [g for g in grad_xs if g is not None]
    return (torch.cat(there) if there else None), sums


def _shown(jet: Jet, order: Order) -> list[Tensor]:
    """u (N, O), du (N, O, K), and the columns of d2u, (N, O, ...)."""
    u, first, curved = jet
    found = [u, first.permute(1, 2, 0).contiguous()]  # type: ignore[union-attr]
    if curved is not None:
        columns = order.index(curved.device).columns
        curved = curved.index_select(0, columns).permute(1, 2, 0)
        found.append(curved.reshape(*u.shape, *order.shape).contiguous())  # type: ignore[union-attr]
    return found  # type: ignore[return-value]


def _hidden(grads: Sequence[Tensor | None], order: Order) -> Jet:
    """Back from the shapes of ``_shown``, of gradients: those of equal columns are added up."""
    g, g_first, *rest = grads
    g_first = None if g_first is None else g_first.permute(2, 0, 1)
    g_second = rest[0] if rest else None
    if g_second is not None:
        columns = order.index(g_second.device).columns
        g_second = g_second.reshape(*g_second.shape[:2], len(columns)).permute(2, 0, 1)
        zero = g_second.new_zeros(order.seconds, *g_second.shape[1:])
        g_second = zero.index_add(0, columns, g_second)
    return Jet(g, g_first, g_second)
