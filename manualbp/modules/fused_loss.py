"""Forward, loss and backward in one pass over tiles of rows.

In C++ where the library is and takes it (fast/native/tiled.py), else in Python (fast/one_pass.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manualbp import fast
from manualbp.autograd import torch_internals
from manualbp.autograd.segment import Segment
from manualbp.autograd.torch_internals import unhooked
from manualbp.maths.losses import Loss
from manualbp.modules import losses, refusal
from manualbp.modules.plan import KEY, find_once, without_plan
from manualbp.modules.sequential import Sequential
from manualbp.modules.stretch import Stretch, stretches

_compiling = torch.compiler.is_compiling  # to look it up takes as long again


class FusedLoss(nn.Module):
    """``C(model(x), y)`` with all its first derivatives, computed tile by tile.

    ``loss = fused(x, y);  loss.backward()``, or without a graph ``loss = fused.backward(x, y)``.

    Args:
        model: nn.Sequential or ours, of Linear, activations and LayerNorm.
        loss: one of our losses or its torch.nn original, with reduction "mean" or "sum".
        tile_rows: the most rows of a tile; None takes as many as keep their activations in the
            cache.

    Equal to ``loss(model(x), y)`` up to rounding: sums over rows are added tile by tile. That very
    expression runs where one pass cannot serve (other layers, training dropout, torch.compile,
    autocast, hooks, half precision on CPU, ...) or takes more time (docs/native.md); the targets
    may be the same in both. Under no_grad only the loss is computed. Derivatives of the gradients
    are an error: use ``loss(model(x), y)`` for them.

    Shapes: x (N, I); y like the model's output (N, O), or class indices (N,).

    Raises:
        ValueError: tile_rows below 1.
        TypeError: model or loss is no nn.Module.

    Example:
        >>> import torch
        >>> import manualbp
        >>> model, loss = manualbp.MLP((4, 8, 3)), manualbp.CrossEntropyLoss()
        >>> x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
        >>> cost = manualbp.FusedLoss(model, loss).backward(x, y)
        >>> torch.allclose(cost, loss(model(x), y))
        True
        >>> model[0].weight.grad.shape
        torch.Size([8, 4])
    """

    __getstate__ = without_plan

    def __init__(self, model: nn.Module, loss: nn.Module, tile_rows: int | None = None) -> None:
        super().__init__()
        for name, part in (("model", model), ("loss", loss)):
            if not isinstance(part, nn.Module):
                kind = type(part).__name__
                raise TypeError(f"{name} must be an nn.Module, got {kind}; pass a module")
        if tile_rows is not None and tile_rows < 1:
            raise ValueError(f"tile_rows must be at least 1, got {tile_rows}; None chooses it")
        self.model, self.loss, self.tile_rows = model, loss, tile_rows

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C, a scalar; its ``backward()`` hands out the gradients, which are computed already."""
        if _compiling() or not fast.pays(input, self.tile_rows):
            return self.loss(self.model(input), target)
        cost = self._guarded(False, input, target)
        if cost is not None:
            return cost
        gpu = fast.on_gpu(input)
        segment, loss = self._segment(input, target, gpu)
        if segment is not None and loss is not None:
            native = self._native(segment, loss, input, target)
            if native is not None:
                cost = fast.fused_natively(native, input, target)
            else:
                cost = fast.fused_cost(segment, loss, input, target, self.tile_rows, gpu)
        return self.loss(self.model(input), target) if cost is None else cost

    def backward(self, input: Tensor, target: Tensor) -> Tensor:
        """C, after adding every gradient to ``.grad``: what ``self(x, y).backward()`` does.

        In C++ no graph is made. Where that cannot serve (hooks on a parameter, such as those of
        DistributedDataParallel, an x that is no leaf, no library, ...), autograd does it. Gradients
        are those of C itself: with a GradScaler use ``scaler.scale(self(x, y)).backward()``.

        Returns:
            C, a scalar without a graph.

        Raises:
            RuntimeError: nothing wants a gradient, as for any loss without a graph.
        """
        if not _compiling() and fast.pays(input, self.tile_rows):
            cost = self._guarded(True, input, target)
            if cost is None:
                cost = self._without_graph(input, target)
            if cost is not None:
                return cost
        cost = self(input, target)
        cost.backward()
        return cost.detach()

    def _without_graph(self, x: Tensor, y: Tensor) -> Tensor | None:
        """``backward`` without a graph, with all questions asked; None where autograd does it."""
        if refusal.of_call(x) is not None or not unhooked(self):
            return None
        segment, loss = self._segment(x, y, fast.on_gpu(x))
        if segment is None or loss is None:
            return None
        native = self._native(segment, loss, x, y)
        return None if native is None else fast.fused_backward(native, x, y)

    def _guarded(self, backward: bool, x: Any, y: Any) -> Tensor | None:
        """C in C++ where nothing has changed since a call that was served; else None."""
        plan = self.__dict__.get(KEY)
        if plan is None or plan.whole is None:
            return None
        children = self._modules["model"]._modules  # type: ignore[union-attr]
        cost: Tensor | None = plan.whole.run(children, backward, x, y)
        return cost

    def _native(self, segment: Segment, loss: Loss, x: Tensor, y: Tensor) -> Any:
        """Both in C++, which a guard runs from now on for such x and y; None where they cannot."""
        plan = self.__dict__.get(KEY)
        native = fast.fused_native(segment, loss, x, self.tile_rows)
        if plan is None or native is None or y.dtype is torch.uint8:
            return native
        children = self.model._modules
        if plan.whole is None or not plan.whole.holds(children, False):
            shells: list[Any] = [self, self.model, self.loss]
            dicts = [d for m in shells for d in (m.__dict__, m._modules, m._parameters, m._buffers)]
            hooks = [getattr(m, name) for m in shells for name in torch_internals.HOOKS]
            kinds = [(type(m), type(m).forward, type(m).__call__) for m in shells[1:]]
            plan.watch_with(children, dicts, hooks, kinds)
            plan.served = set()
        state = x.shape, x.stride(), x.requires_grad, y.shape, y.stride(), y.dtype
        if state not in plan.served:
            plan.served.add(state)
            fast.serve_fused(plan.whole, native, segment, loss, x, y)
        return native

    def _segment(self, x: Any, y: Any, gpu: bool) -> tuple[Segment | None, Loss | None]:
        """The chain that the model is, and the loss, where one pass serves them on x and y."""
        stretch = self._stretch(gpu)
        loss = losses.loss_of(self.loss) if unhooked(self.loss) else None
        if stretch is None or loss is None or refusal.of_call(x, graph=False) is not None:
            return None, None
        if x.dim() != 2 or not isinstance(y, Tensor) or len(x) == 0 or y.shape[:1] != x.shape[:1]:
            return None, None
        weights = loss.weights
        if not stretch.fits(x) or y.requires_grad or loss.reduction == "none":
            return None, None
        o = fast.outputs(x, stretch.thetas)
        tensors = [x, *stretch.tensors, *weights, *([y] if y.is_floating_point() else [])]
        if refusal.of_tensors(tensors) is not None or y.device != x.device:
            return None, None
        if any(w.dim() > 1 or w.requires_grad for w in weights) or not loss.check(o, y):
            return None, None
        return stretch.segment(x), loss

    def _stretch(self, gpu: bool) -> Stretch | None:
        """The one chain that the model is, if it is one whose rows do not depend on each other."""
        if not _is_sequential(self.model):
            return None
        children = tuple(self.model._modules.values())
        parts = find_once(self, children, ("fast", "full", gpu), stretches)  # type: ignore[arg-type]
        if len(parts) != 1 or not isinstance(parts[0], Stretch):
            return None
        return parts[0] if all(layer.by_rows() for layer in parts[0].layers) else None


def _is_sequential(model: nn.Module) -> bool:
    """Whether calling the model is calling its children in order."""
    own = getattr(type(model), "forward", None) in (Sequential.forward, nn.Sequential.forward)
    return isinstance(model, nn.Sequential) and own and unhooked(model)
