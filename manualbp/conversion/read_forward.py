"""What a hand-made block computes, read from the source of its ``forward``.

It understands forwards that call one step after the other and do nothing else:

    x = self.fc1(x)                    a child of the block
    x = F.gelu(x), torch.tanh(x), x.relu()    a function without options
    return x                           a chain of steps
    return x + self.fc2(self.fc1(x))   a residual block
    return self.down(self.act(self.gate(x)) * self.up(x))    a gated block

For everything else (a branch, a reshape, a second input, a side effect) it returns the reason. A
result must be read exactly once, since each step is done once.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

# Functions, and the module of torch.nn that computes the same.
FUNCTIONS: dict[Callable[..., Any], Callable[..., nn.Module]] = {
    torch.relu: nn.ReLU, F.relu: nn.ReLU, torch.tanh: nn.Tanh, F.tanh: nn.Tanh,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, F.gelu: nn.GELU, F.silu: nn.SiLU,
    F.elu: nn.ELU, F.selu: nn.SELU, F.softplus: nn.Softplus, F.leaky_relu: nn.LeakyReLU,
}  # fmt: skip
METHODS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}

Steps = tuple[str | nn.Module, ...]  # names of children, or modules for functions


def module_of(function: Any) -> Callable[..., nn.Module] | None:
    """The class of module that computes the same; None for an unknown function."""
    return next((module for known, module in FUNCTIONS.items() if known is function), None)


class Reading(NamedTuple):
    """o = steps(x), plus x with ``residual``; with ``gate`` o = steps(left(x) * right(x))."""

    argument: str  # the name forward gives to x
    steps: Steps
    gate: tuple[Steps, Steps] | None = None  # in the order of evaluation
    residual: bool = False
    functions: tuple[tuple[str, Any], ...] = ()  # each dotted name it uses, and its object
    names: dict[str, Any] = {}  # noqa: RUF012  # where the names are looked up

    def holds(self) -> bool:
        """Whether the names still mean the same objects as when they were read."""
        return all(_found(name, self.names) is function for name, function in self.functions)


def _found(name: str, names: dict[str, Any]) -> Any:
    """The object that a dotted name means."""
    first, *rest = name.split(".")
    return functools.reduce(lambda o, part: getattr(o, part, None), rest, names.get(first))


def read(forward: Callable[..., Any]) -> Reading | str:
    """What a ``forward`` computes, or why it is not understood."""
    if not isinstance(forward, FunctionType):
        return "its forward is wrapped by a decorator or is no plain function"
    if forward not in _KNOWN:
        try:
            _KNOWN[forward] = _read(forward)
        except _NotRead as reason:
            _KNOWN[forward] = str(reason)
    return _KNOWN[forward]


_KNOWN: WeakKeyDictionary[FunctionType, Reading | str] = WeakKeyDictionary()


class _NotRead(Exception):
    """The message says what stands in the way."""


def _read(forward: FunctionType) -> Reading:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        raise _NotRead("the source of its forward is not at hand") from None
    wrapped = hasattr(forward, "__wrapped__")
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list or wrapped:
        raise _NotRead("its forward is wrapped by a decorator or is no plain function")
    arguments = tree.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if len(names) != 2 or arguments.vararg or arguments.kwonlyargs or arguments.kwarg:
        raise _NotRead("its forward takes something besides one input")
    if forward.__closure__:
        raise _NotRead("its forward uses names of an enclosing function")
    reading = _Reader(names[0], names[1], forward).block(tree.body)
    if not _is_current(forward):
        raise _NotRead("the source of its forward is not what runs")
    return reading


def _is_current(forward: FunctionType) -> bool:
    """Whether the file still has the code that runs: it may have been edited since."""
    lines, _ = inspect.findsource(forward)
    try:
        pending = [compile("".join(lines), forward.__code__.co_filename, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return False
    while pending:
        code = pending.pop()
        if all(getattr(code, part) == getattr(forward.__code__, part) for part in _PARTS):
            return True
        pending += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return False


_PARTS = ("co_name", "co_firstlineno", "co_code", "co_names", "co_varnames")


class _Value(NamedTuple):
    """A part of a Reading. x itself has no steps."""

    steps: Steps = ()
    gate: tuple[Steps, Steps] | None = None
    residual: bool = False
    since: int = 0  # how many steps came before the first of these

    @property
    def untouched(self) -> bool:
        return not (self.steps or self.gate or self.residual)


class _Reader:
    """Reads the few forms of expression that are understood."""

    def __init__(self, own: str, argument: str, forward: FunctionType) -> None:
        self.own, self.argument, self.globals = own, argument, forward.__globals__
        self.locals = forward.__code__.co_varnames
        self.values = {argument: _Value()}
        self.spent: set[str] = set()  # names of values that were read
        self.taken = 0  # the number of steps so far
        self.functions: list[tuple[str, Any]] = []

    def block(self, body: list[ast.stmt]) -> Reading:
        for statement in body:
            match statement:
                case ast.Expr(value=ast.Constant()):
                    pass  # a docstring
                case ast.Return(value=ast.expr() as node):
                    result = self.value(node, statement)
                    self.drop(*self.values)
                    functions = tuple(self.functions)
                    return Reading(self.argument, *result[:3], functions, self.globals)
                case ast.Assign(targets=[ast.Name(id=name)], value=node):
                    value = self.value(node, statement)
                    self.drop(name)
                    self.values[name] = value
                case _:
                    raise _not_read(statement)
        raise _NotRead("its forward returns nothing")

    def drop(self, *names: str) -> None:
        """Raises where a result of one of these names would be lost."""
        for name in names:
            if name == self.own or not self.values.get(name, _Value()).untouched:
                raise _NotRead(f"its forward has a `{name}` that it gives up unread")

    def value(self, node: ast.expr, within: ast.AST) -> _Value:
        """What an expression stands for, which is a part of ``within``."""
        match node:
            case ast.Name(id=name) if name in self.values:
                found = self.values[name]
                if not found.untouched:  # a second reader would do the steps again
                    del self.values[name]
                    self.spent.add(name)
                return found
            case ast.Name(id=name) if name in self.spent:
                raise _NotRead(f"its forward reads `{name}` more than once")
            case ast.BinOp(left=left, right=right):
                return self.combined(node, self.value(left, node), self.value(right, node))
            case ast.Call(func=function, args=[x], keywords=[]):
                return self.then(node, self.value(x, node), self.step(function))
            case ast.Call(func=ast.Attribute(value=x, attr=name), args=[], keywords=[]):
                if name in METHODS:  # x.relu()
                    return self.then(node, self.value(x, node), METHODS[name]())
            case ast.Constant() | ast.Name() | ast.Attribute():  # says little by itself
                raise _NotRead(
                    f"its forward has `{ast.unparse(within)}`, where `{ast.unparse(node)}` "
                    "is no result of a step"
                )
        raise _not_read(node)

    def combined(self, node: ast.BinOp, left: _Value, right: _Value) -> _Value:
        plain = not (left.residual or right.residual or left.gate or right.gate)
        if isinstance(node.op, ast.Mult) and plain and left.steps and right.steps:
            first, second = sorted((left, right), key=lambda side: side.since)
            return _Value((), (first.steps, second.steps))
        if isinstance(node.op, ast.Add) and plain and () in (left.steps, right.steps):
            return _Value(left.steps or right.steps, residual=True)
        raise _not_read(node)

    def then(self, node: ast.expr, value: _Value, step: str | nn.Module) -> _Value:
        if value.residual:  # the addition must come last
            raise _not_read(node)
        since = self.taken if value.untouched else value.since
        self.taken += 1
        return value._replace(steps=(*value.steps, step), since=since)

    def step(self, function: ast.expr) -> str | nn.Module:
        name, first = ast.unparse(function), function
        while isinstance(first, ast.Attribute):
            first = first.value
        if not isinstance(first, ast.Name):
            raise _not_read(function)
        if isinstance(function, ast.Attribute) and name == f"{self.own}.{function.attr}":
            return function.attr
        found = None if first.id in self.locals else _found(name, self.globals)
        known = module_of(found)
        if known is None:
            raise _not_read(function)
        self.functions.append((name, found))
        return known()


def _not_read(node: ast.AST) -> _NotRead:
    return _NotRead(f"its forward has `{ast.unparse(node)}`, which is no step by itself")
