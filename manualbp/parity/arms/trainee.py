"""One arm of a training: a module, the optimizer over its parameters, and everything they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from manualbp.parity.arms.calls import Call, seed_all
from manualbp.parity.arms.forward import LOSS, Tensors, on_gradient
from manualbp.parity.arms.layouts import copy_as_laid
from manualbp.parity.arms.rounding import Nudge
from manualbp.parity.arms.subject import Subject, kept_running
from manualbp.parity.arms.trees import mapped

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]


class Trainee:
    """A subject in training. Names of tensors are the reference's, as in training_record.py.

    Args:
        subject: a module; it is trained in place.
        make: makes an optimizer of its parameters.
        order: the names in whose order the optimizer gets the parameters; others come after.

    Raises:
        ValueError: it has no parameter that is trained.
    """

    def __init__(self, subject: Subject, make: MakeOptimizer, order: Iterable[str] = ()) -> None:
        assert subject.module is not None
        self.subject, self.module = subject, subject.module
        own = subject.parameters
        names = [*(n for n in order if n in own), *(n for n in own if n not in set(order))]
        self.parameters = {name: own[name] for name in names}
        self.trained = {n: p for n, p in self.parameters.items() if p.requires_grad}
        if not self.trained:
            raise ValueError(
                f"expected parameters to train in {subject.name}, got none with requires_grad"
            )
        self.optimizer = make(list(self.trained.values()))
        self._nudge: Nudge | None = None

    @staticmethod
    def twin(subject: Subject, make: MakeOptimizer, nudge: Nudge) -> Trainee:
        """A copy of a subject, every parameter one ulp away; each of its layers can be nudged."""
        twin = Trainee(subject.copy(), make)
        with torch.no_grad():
            for parameter in twin.parameters.values():
                parameter.copy_(nudge.ulp(parameter))
        for child in twin.module.modules():
            if not any(child.children()):
                child.register_forward_hook(lambda _module, _args, output: twin._off(output))
        return twin

    @kept_running()
    def gradients(self, call: Call, nudge: Nudge | None = None) -> Tensors:
        """``loss`` and every ``T.grad`` of one forward and backward; parameters stay as they are.

        ``nudge`` moves the inputs, the parameters (for this call alone), the output's gradient, and
        in a twin every layer's output and that output's gradient.

        Raises:
            TypeError: the loss is not one number with a floating-point dtype.
        """
        if nudge is None:
            return self._gradients(call, {n: copy_as_laid(x) for n, x in call.leaves.items()})
        before = [p.detach().clone() for p in self.parameters.values()]
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.copy_(nudge(parameter))
        self._nudge = nudge
        try:
            return self._gradients(call, {n: nudge(x) for n, x in call.leaves.items()})
        finally:
            self._nudge = None
            with torch.no_grad():
                for parameter, values in zip(self.parameters.values(), before, strict=True):
                    parameter.copy_(values)

    @kept_running()
    def update(self) -> Tensors:
        """The optimizer's step; then parameters, buffers and the tensors of its state."""
        self.optimizer.step()
        found: Tensors = {name: p.detach() for name, p in self.parameters.items()}
        found |= {n: _plain(b) for n, b in self.subject.buffers.items()}
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{name}.{key}"] = _plain(value)
        return found

    def numbers(self) -> dict[str, Any]:
        """A copy of parameters and buffers, for ``load(..., optimizer=False)`` of any arm."""
        return {
            "parameters": {n: p.detach().clone() for n, p in self.parameters.items()},
            "buffers": {n: b.detach().clone() for n, b in self.subject.buffers.items()},
        }

    def state(self) -> dict[str, Any]:
        """A copy of all that a step changes, for ``load`` of this or another arm."""
        states = self.optimizer.state
        return {
            **self.numbers(),
            "optimizer": {
                n: {k: _copy(v) for k, v in states[p].items()}
                for n, p in self.trained.items() if p in states
            },
            "groups": [
                {k: _copy(v) for k, v in group.items() if k != "params"}
                for group in self.optimizer.param_groups
            ],
        }  # fmt: skip

    def load(self, state: dict[str, Any], optimizer: bool = True) -> None:
        """Take over parameters and buffers of equal names, and all of the optimizer's state."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if name in state["parameters"]:
                    parameter.copy_(state["parameters"][name])
            for name, buffer in self.subject.buffers.items():
                values = state["buffers"].get(name)
                if values is not None and values.shape == buffer.shape:
                    buffer.copy_(values)
        if not optimizer:
            return
        self.optimizer.state.clear()
        for name, saved in state["optimizer"].items():
            if name in self.trained:
                self.optimizer.state[self.trained[name]] = {k: _copy(v) for k, v in saved.items()}
        for group, saved in zip(self.optimizer.param_groups, state["groups"], strict=True):
            group.update({k: _copy(v) for k, v in saved.items()})

    def _gradients(self, call: Call, leaves: dict[str, Tensor]) -> Tensors:
        seed_all(call.seed)  # every arm sees the same dropout
        for parameter in self.parameters.values():
            parameter.grad = None
        own = call.with_leaves(leaves)
        output = self._off(self.subject.call(*own.args, **own.kwargs))
        loss = call.loss_of(output)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(f"expected the loss to be one floating-point number, got {got}")
        if loss.requires_grad:  # without a graph every gradient is missing, which is seen
            loss.backward()  # type: ignore[no-untyped-call]
        found: Tensors = {LOSS: loss.detach().reshape(())}
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            found[f"{name}.grad"] = None if gradient is None else gradient.detach().clone()
        return found

    def _off(self, output: Any) -> Any:
        """An output as another implementation may round it; its gradient will be rounded too."""
        nudge = self._nudge

        def off(_path: Any, value: Any) -> Any:
            if nudge is None or not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            exact = value.detach()
            moved = value + (nudge(exact) - exact)
            on_gradient(moved, nudge)
            return moved

        return mapped(off, output)


def _plain(values: Tensor) -> Tensor:
    """Dense and real, to be measured: a sparse buffer, or complex ones as pairs of numbers."""
    dense = values.detach().to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
