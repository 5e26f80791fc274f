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
from manualbp.maths.taylor import Jet, Second, Stage

Gradients = tuple[Tensor | None, list[Tensor | None]]  # dC/dx, every dC/dtheta


class Derivatives(torch.autograd.Function):
    """``apply_derivatives(stages, second, lines, *stages.parameters, x)``: u, du and d2u.

    lines: v (K, I), or (N, K, I) of each point's own. d2u is left out where ``second`` is None.
    """

    @staticmethod
    def forward(ctx: Any, stages: Stages, second: Second, lines: Tensor, *tensors: Any) -> Any:
        *parameters, x = tensors
        values = [None if t is None else t.detach() for t in parameters]
        trained = ctx.needs_input_grad[3:-1]
        graphs = [t if trains else None for t, trains in zip(parameters, trained, strict=True)]
        todo = stages.of(stages.thetas, None, False)
        tile, height = _tile(stages, x, lines, second), rows(lines, second)
        keeps = any(ctx.needs_input_grad) and stages.keeps(len(x), height, x.itemsize)
        tapes: list[taylor.Tape] | None = [] if keeps else None
        found = _up(x, lines, todo, second, tile, tapes)
        flat = [part for tape in tapes or () for jet in tape for part in jet]
        ctx.save_for_backward(lines, x, *values, *graphs, *flat)
        ctx.stages, ctx.second = stages, second
        ctx.present = (True, *stages.present, True)  # lines, parameters, x
        ctx.set_materialize_grads(False)
        return tuple(_shown(found, second))

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
        grad_x, grads = gradients(ctx.stages, ctx.second, before, grad_outputs, wants, wants_x)
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
    stages: Stages, second: Second, saved: Saved, grads: Sequence[Tensor | None],
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
    tile = len(x) if whole else _tile(stages, x, lines, second)
    tapes = [] if whole else _tapes(jets, len(stages.layers))
    grad_x, found = _down(grads, x, lines, todo, second, tile, tapes)
    return grad_x if wants_x else None, found


def axes(x: Tensor) -> Tensor:
    """The directions of the axes, (I, I)."""
    return torch.eye(x.shape[1], dtype=x.dtype, device=x.device)


def _tile(stages: Stages, x: Tensor, lines: Tensor, second: Second) -> int:
    return stages.tile(rows(lines, second), x.itemsize)


def rows(lines: Tensor, second: Second) -> int:
    """1 + K + P: the rows of a product for each point."""
    return 1 + lines.shape[-2] + second_count(lines.shape[-2], second)


def second_count(lines: int, second: Second) -> int:
    """P: how many second derivatives go up."""
    counts = {None: 0, "laplacian": 1, "diagonal": lines, "hessian": lines * (lines + 1) // 2}
    return counts[second]


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
    x: Tensor, lines: Tensor, todo: list[Stage], second: Second, tile: int,
    tapes: list[taylor.Tape] | None,
) -> Jet:  # fmt: skip
    """The jet of u: (N, O), (K, N, O), (P, N, O). Each tile's tape goes to ``tapes``."""
    found = []
    for part in _parts(x, tile):
        tape: taylor.Tape | None = None if tapes is None else []
        u, first, curved = taylor.forward(_start(x, lines, part), todo, second, tape)
        if tapes is not None and tape is not None:
            tapes.append(tape)
        shape = u.shape  # type: ignore[union-attr]
        first = first.expand(-1, *shape)  # type: ignore[union-attr]
        if second is not None and curved is None:
            curved = u.new_zeros(second_count(len(first), second), *shape)  # type: ignore[union-attr]
        found.append((u, first, curved))
    if len(found) == 1:
        return Jet(*found[0])
    u, first, curved = zip(*found, strict=True)
    return Jet(torch.cat(u), torch.cat(first, 1), None if second is None else torch.cat(curved, 1))


def _down(
    grads: Sequence[Tensor | None], x: Tensor, lines: Tensor, todo: list[Stage], second: Second,
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
            taylor.forward(_start(x, lines, part), todo, second, tape)
        g = _hidden([None if g is None else g[part] for g in grads], second)
        grad_x, thetas = taylor.backward(g, todo, second, tape)
        sums = list(map(total, sums, thetas)) if sums else thetas
        grad_xs.append(grad_x)
    there = [g for g in grad_xs if g is not None]
    return (torch.cat(there) if there else None), sums


def _shown(jet: Jet, second: Second) -> list[Tensor]:
    """u (N, O), du (N, O, K), and d2u: (N, O), (N, O, K) or (N, O, K, K)."""
    u, first, curved = jet
    found = [u, first.permute(1, 2, 0).contiguous()]  # type: ignore[union-attr]
    if curved is not None and second == "laplacian":
        found.append(curved[0])
    elif curved is not None:
        curved = curved.permute(1, 2, 0)
        if second == "hessian":
            curved = curved[..., _place(len(first), curved.device)]  # type: ignore[arg-type]
        found.append(curved.contiguous())
    return found  # type: ignore[return-value]


def _hidden(grads: Sequence[Tensor | None], second: Second) -> Jet:
    """Back from the shapes of ``_shown``, of gradients."""
    g, g_first, *rest = grads
    g_first = None if g_first is None else g_first.permute(2, 0, 1)
    g_second = rest[0] if rest else None
    if g_second is not None and second == "laplacian":
        g_second = g_second[None]
    elif g_second is not None:
        if second == "hessian":
            k, m = taylor.pairs(g_second.shape[-1], g_second.device)
            both = g_second[..., k, m] + g_second[..., m, k]
            g_second = torch.where(k == m, g_second[..., k, m], both)
        g_second = g_second.permute(2, 0, 1)
    return Jet(g, g_first, g_second)


def _place(lines: int, device: torch.device) -> Tensor:
    """(K, K): the number of the pair (k, m), in either order."""
    k, m = taylor.pairs(lines, device)
    place = torch.empty(lines, lines, dtype=torch.long, device=device)
    place[k, m] = place[m, k] = torch.arange(len(k), device=device)
    return place
