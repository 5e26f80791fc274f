"""Which children make one chain by hand. Found once, and kept until something changes.

``call`` is what Sequential and the converted blocks share: the modules in order, every stretch of
known ones through one hand-written Function, every other module as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter, is_
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from manualbp import fast
from manualbp.autograd import torch_internals
from manualbp.modules import refusal
from manualbp.modules.stretch import Stretch, in_order, stretches
from manualbp.settings import choices_of

T = TypeVar("T")
Children = dict[str, nn.Module] | tuple[nn.Module, ...]
KEY = fast.exact.KEY  # of the plan in its module's __dict__
END = object()  # closes the attributes: else one more at the end would not be seen
_forward = attrgetter("forward", "__call__")
_compiling = torch.compiler.is_compiling  # to look it up takes as long again


def call(owner: nn.Module, children: Children, x: Any, residual: bool = False) -> Any:
    """f(x), the children in order; with ``residual`` x + f(x). ``owner`` keeps the plan."""
    plan = None if _compiling() else owner.__dict__.get(KEY)
    if plan is not None and plan.guard is not None and plan.key == choices_of(owner):
        o = plan.guard.run(children, residual, x)
        if o is not None:
            return o
    modules: Iterable[nn.Module] = children.values() if isinstance(children, dict) else children
    return _call(owner, modules, x, residual)


def _call(owner: nn.Module, modules: Iterable[nn.Module], x: Any, residual: bool) -> Any:
    """The same, with all questions asked."""
    if refusal.of_call(x) is not None:
        return in_order(modules, x, residual)
    key: Any = choices_of(owner)
    if key[0] == "fast":
        gpu = fast.on_gpu(x)
        key = *key, gpu
        if not gpu:
            fast.native.warn_if_missing()
    parts = find_once(owner, tuple(modules), key, stretches)
    if len(parts) == 1 and type(parts[0]) is Stretch:
        return parts[0].run(x, residual)
    return in_order(parts, x, residual)


class Plan:
    """What was found for a module, and all that it was found from.

    All children are compared, and of known ones every attribute, parameter and buffer, by identity.
    So each change is seen: an option, a hook, another parameter, another forward.
    """

    def __init__(self, children: tuple[nn.Module, ...] = (), key: Any = None) -> None:
        self.key, self.found = key, cast(Any, None)
        self.guard: Any = None  # answers for the plan in one C++ call, where a library is
        self.whole: Any = None  # a guard of more than the children; FusedLoss's, derivatives'
        self.served: set[Any] = set()  # the x and y for which FusedLoss's runs
        self.known = known = [m for m in children if type(m) in refusal.FORWARDS]
        self.kinds = tuple(map(type, children))
        self.classes = tuple({type(child) for child in known})
        self.forwards = tuple(map(_forward, self.classes))
        tensors = [d for m in known for d in (m._parameters, m._buffers) if d]
        self.dicts: list[Any] = [*(m.__dict__ for m in known), *tensors]
        attributes = [*self.dicts, {"": END}]
        # Views, which follow each change; the dicts at the end stand for the names of the tensors.
        self.views: list[Any] = [*map(dict.values, attributes), *tensors]
        self.values: list[Any] = [*children, *chain(*self.views)]
        self.hooks = [getattr(m, name) for m in known for name in torch_internals.HOOKS]

    def holds(self, children: tuple[nn.Module, ...], key: Any) -> bool:
        """Whether nothing has changed."""
        return (
            self.key == key
            and all(map(is_, chain(children, *self.views), self.values))
            and self.kinds == tuple(map(type, children))
            and self.forwards == tuple(map(_forward, self.classes))
            and not any(self.hooks)
        )

    def may_be_kept(self) -> bool:
        """Not while there is a hook, nor with tensors that are parameters in this call alone."""
        tensors = (v for v in self.values if isinstance(v, Tensor))
        parameters = (p for m in self.known for p in m._parameters.values())
        return (
            not any(self.hooks)
            and all(t.is_leaf for t in tensors)
            and all(isinstance(p, (nn.Parameter, type(None))) for p in parameters)
        )

    def watch(self, children: tuple[nn.Module, ...]) -> None:
        """Has a guard answer, where the plan is one stretch of Linear and activations."""
        found = self.found
        if not (isinstance(found, list) and len(found) == 1 and type(found[0]) is Stretch):
            return
        if found[0].is_native():
            kinds = self.kinds_as_found()
            self.guard = fast.exact.guard(children, self.dicts, self.hooks, kinds)
            found[0].guard = self.guard

    def watch_with(
        self, children: Children, dicts: list[Any], hooks: list[Any], kinds: list[Any]
    ) -> None:
        """Has a guard answer for the plan and for all this (``fast.exact.guard``)."""
        kinds = [*kinds, *self.kinds_as_found()]
        self.whole = fast.exact.guard(children, dicts + self.dicts, hooks + self.hooks, kinds)

    def kinds_as_found(self) -> list[Any]:
        """(class, its forward, its __call__) of every known child."""
        return [(kind, *both) for kind, both in zip(self.classes, self.forwards, strict=True)]

    def __reduce__(self) -> Any:
        """Copies and files of a module get an empty plan, which holds for nothing."""
        return Plan, ()


def find_once(
    owner: nn.Module, children: tuple[nn.Module, ...], key: Any, find: Callable[..., T]
) -> T:
    """``find(children, *key)``, kept in ``owner`` until a child changes."""
    plan = owner.__dict__.get(KEY)
    if plan is None or not plan.holds(children, key):
        plan = Plan(children, key)
        plan.found = find(children, *key)
        if plan.may_be_kept():
            plan.watch(children)
            owner.__dict__[KEY] = plan
    return cast(T, plan.found)


def without_plan(module: nn.Module) -> dict[str, Any]:
    """The state of a module for copies and files: the plan is found again."""
    state: dict[str, Any] = nn.Module.__getstate__(module)  # type: ignore[no-untyped-call]
    state.pop(KEY, None)
    return state
