"""Drop-in losses: torch.nn's signatures over Functions with the gradients of losses.py.

    loss = manualbp.CrossEntropyLoss()(model(x), y);  loss.backward()

Value and gradient are bit-identical with torch.nn's on CPU. Where a Function cannot serve
(torch.compile, torch.func, autocast, a target that wants a gradient, cross-entropy over images)
torch.nn's own forward runs. One deliberate difference: a target of another shape or dtype is an
error here, also where torch.nn warns and broadcasts, because the broadcast loss is the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.autograd.cost import Rule, differentiable
from manualbp.autograd.torch_internals import alike, unhooked, unobserved
from manualbp.maths import losses
from manualbp.maths.cross_entropy import CrossEntropy, LogSoftmax
from manualbp.settings import fast


class Cost(torch.autograd.Function):
    """C(o, y), with dC/do by hand: ``Cost.apply(loss, o, y, *loss.tensors())``."""

    @staticmethod
    def forward(ctx: Any, loss: losses.Loss, o: Tensor, y: Tensor, *weights: Any) -> Tensor:
        ctx.loss = loss
        ctx.save_for_backward(o, y, *weights)
        ctx.set_materialize_grads(False)
        return loss.forward(o, y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        o, y, *weights = ctx.saved_tensors
        grad_o = _through(ctx.loss, grad, o, y, watched=weights)
        return None, grad_o, *[None] * (1 + len(weights))


class LogP(torch.autograd.Function):
    """log p = log softmax(o), with its gradient by hand: ``LogP.apply(o)``."""

    @staticmethod
    def forward(ctx: Any, o: Tensor) -> Tensor:
        log_p = LogSoftmax().forward(o)
        ctx.save_for_backward(log_p)
        ctx.set_materialize_grads(False)
        return log_p

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (delta,) = grad_outputs
        return _through(LogSoftmax(), delta, *ctx.saved_tensors)


def _through(
    rule: Rule, grad: Tensor | None, x: Tensor, *rest: Tensor, watched: Sequence[Tensor] = ()
) -> Tensor | None:
    """The rule's gradient; where autograd records, one that can be differentiated again."""
    if grad is None:
        return None
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return differentiable(rule, grad, x, *rest, watched=watched)
    return rule.backward(grad, x, *rest)


def _cost(
    module: nn.Module, loss: losses.Loss, own_forward: Callable[[Any, Any], Any], o: Any, y: Any,
    quick: bool = False,
) -> Any:  # fmt: skip
    """C by hand where a graph is wanted and nothing observes; else torch.nn's own forward.

    In fast mode, or asked to be quick, that runs as well: it has the same kernels, and no Python
    between them.
    """
    if isinstance(o, torch.fx.Proxy) or isinstance(y, torch.fx.Proxy):
        return own_forward(o, y)
    if not (isinstance(o, Tensor) and isinstance(y, Tensor)):
        raise TypeError(
            f"input and target must be tensors, got {type(o).__name__} and {type(y).__name__}; "
            "use torch.as_tensor"
        )
    serves = loss.serves(o, y)
    if serves:
        loss.check(o, y)
    try:
        if serves and not (quick or fast(module)) and _by_hand(loss, o, y):
            if isinstance(loss, CrossEntropy):
                o = LogP.apply(o)  # type: ignore[no-untyped-call]
            return Cost.apply(loss, o, y, *loss.tensors())  # type: ignore[no-untyped-call]
        return own_forward(o, y)
    except IndexError as error:  # from the CPU kernel; a GPU can only report it later
        if o.dim() == 0:
            raise
        raise IndexError(
            f"class indices must be in 0...{o.shape[1 if o.dim() > 1 else 0] - 1}, one per output "
            f"of the network, got: {error}; make the last layer wider, or mark samples to skip "
            "with ignore_index"
        ) from None


def _by_hand(loss: losses.Loss, o: Tensor, y: Tensor) -> bool:
    weights = [w for w in loss.tensors() if w is not None]
    return (
        o.requires_grad
        and unobserved(o)
        and alike([o, *weights, *([y] if y.is_floating_point() else [])])
        and not (y.requires_grad or y.is_inference() or y.device != o.device)
        and not any(w.requires_grad for w in weights)
    )


def loss_of(module: nn.Module) -> losses.Loss | None:
    """The loss that a module of torch.nn or of ours computes; None for any other."""
    build = _LOSSES.get(type(module))
    return build(module) if build else None


def quickly(module: nn.Module, o: Any, y: Any) -> Any:
    """C, of one of our losses by torch.nn's own forward."""
    own = _OURS.get(type(module))
    if own is None or not unhooked(module):
        return module(o, y)
    forward = own.forward
    return _cost(module, _LOSSES[own](module), lambda o, y: forward(module, o, y), o, y, True)


class MSELoss(nn.MSELoss):
    """C = mean (o - y)^2,  dC/do = 2 (o - y) / n: nn.MSELoss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.mse_loss(input, target, reduction=self.reduction)
        else:
            return _cost(self, _LOSSES[nn.MSELoss](self), super().forward, input, target)


class L1Loss(nn.L1Loss):
    """C = mean |o - y|,  dC/do = sign(o - y) / n: nn.L1Loss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.l1_loss(input, target, reduction=self.reduction)
        else:
            return _cost(self, _LOSSES[nn.L1Loss](self), super().forward, input, target)


class HuberLoss(nn.HuberLoss):
    """C = mean of e^2 / 2 if |e| <= delta, else delta (|e| - delta / 2): nn.HuberLoss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)
        else:
            return _cost(self, _LOSSES[nn.HuberLoss](self), super().forward, input, target)


class SmoothL1Loss(nn.SmoothL1Loss):
    """C = mean of e^2 / (2 beta) if |e| < beta, else |e| - beta / 2: nn.SmoothL1Loss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)
        else:
            return _cost(self, _LOSSES[nn.SmoothL1Loss](self), super().forward, input, target)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """C = -mean w [p y log s + (1 - y) log(1 - s)], s = sigmoid(o), by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.binary_cross_entropy_with_logits(
                input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
            )
        else:
            return _cost(self, _LOSSES[nn.BCEWithLogitsLoss](self), super().forward, input, target)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """C = -mean log p_y, p = softmax(o),  dC/do = (p - q) / n: nn.CrossEntropyLoss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); target: class indices (N,) int64, or probabilities (N, classes)."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.cross_entropy(
                input, target, weight=self.weight, ignore_index=self.ignore_index,
                reduction=self.reduction, label_smoothing=self.label_smoothing,
            )  # fmt: skip
        else:
            return _cost(self, _LOSSES[nn.CrossEntropyLoss](self), super().forward, input, target)


_LOSSES: dict[type[nn.Module], Callable[[Any], losses.Loss]] = {
    nn.MSELoss: lambda m: losses.MSE(m.reduction),
    nn.L1Loss: lambda m: losses.L1(m.reduction),
    nn.HuberLoss: lambda m: losses.Huber(m.reduction, m.delta),
    nn.SmoothL1Loss: lambda m: losses.SmoothL1(m.reduction, m.beta),
    nn.BCEWithLogitsLoss: lambda m: losses.BCEWithLogits(m.reduction, m.weight, m.pos_weight),
    nn.CrossEntropyLoss: lambda m: CrossEntropy(
        m.reduction, m.weight, m.ignore_index, m.label_smoothing
    ),
}
_OURS: dict[type[nn.Module], type[nn.Module]] = {
    MSELoss: nn.MSELoss,
    L1Loss: nn.L1Loss,
    HuberLoss: nn.HuberLoss,
    SmoothL1Loss: nn.SmoothL1Loss,
    BCEWithLogitsLoss: nn.BCEWithLogitsLoss,
    CrossEntropyLoss: nn.CrossEntropyLoss,
}
_LOSSES |= {ours: _LOSSES[own] for ours, own in _OURS.items()}
