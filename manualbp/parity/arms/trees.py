"""Nested values, and the tensors in them by path.

PyTorch's pytree opens tuples, lists, dicts and named tuples. Here dataclasses and other objects
with fields are opened as well, which a pytree takes for a single leaf: ``output.logits``.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Path = tuple[Any, ...]  # of pytree's keys; keystr prints it
# What has attributes, but is not made of them. So is whatever can be called.
_WHOLE = (Tensor, nn.Module, ModuleType, torch.Generator)


def leaves(tree: Any) -> Iterator[tuple[Path, Any]]:
    """Every leaf with its path. An object that contains itself is opened once."""
    yield from _leaves(tree, (), ())


def mapped(change: Callable[[Path, Any], Any], tree: Any) -> Any:
    """The same nesting with other leaves; an object in which one has changed is a copy."""
    return _mapped(change, tree, (), ())


def structure(tree: Any) -> str:
    """The nesting and every leaf that is no tensor: ``(tensor, {'n': 3})``.

    Of a dataclass the fields are shown without the name of its class: another class with the same
    fields is the same nesting. Addresses in memory are left out.
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(_shown(tree, ())))


class _Shown(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _fields(value: Any) -> dict[Any, Any]:
    """What an object is made of, by pytree's keys; nothing where it is a leaf."""
    if isinstance(value, _WHOLE) or callable(value):
        return {}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return {pytree.GetAttrKey(name): getattr(value, name) for name in names}
    if isinstance(value, dict):  # a class of its own: of dicts themselves pytree knows
        return {pytree.MappingKey(key): item for key, item in value.items()}
    return {pytree.GetAttrKey(name): item for name, item in getattr(value, "__dict__", {}).items()}


def _leaves(tree: Any, above: Path, objects: tuple[int, ...]) -> Iterator[tuple[Path, Any]]:
    for inner, leaf in pytree.tree_flatten_with_path(tree)[0]:
        path = (*above, *inner)
        fields = {} if id(leaf) in objects else _fields(leaf)
        for key, value in fields.items():
            yield from _leaves(value, (*path, key), (*objects, id(leaf)))
        if not fields:
            yield path, leaf


def _mapped(
    change: Callable[[Path, Any], Any], tree: Any, above: Path, objects: tuple[int, ...]
) -> Any:
    pairs, spec = pytree.tree_flatten_with_path(tree)
    found = []
    for inner, leaf in pairs:
        path = (*above, *inner)
        fields = {} if id(leaf) in objects else _fields(leaf)
        changed = {key: _mapped(change, value, (*path, key), (*objects, id(leaf)))
                   for key, value in fields.items()}  # fmt: skip
        found.append(_with(leaf, fields, changed) if fields else change(path, leaf))
    if all(new is leaf for new, (_, leaf) in zip(found, pairs, strict=True)):
        return tree
    return pytree.tree_unflatten(found, spec)


def _with(value: Any, fields: Mapping[Any, Any], changed: Mapping[Any, Any]) -> Any:
    """A copy of an object with other fields; the object itself where none is another."""
    other = {key: new for key, new in changed.items() if new is not fields[key]}
    if not other:
        return value
    found = copy.copy(value)
    for key, new in other.items():
        if isinstance(key, pytree.MappingKey):
            found[key.key] = new
            continue
        try:
            setattr(found, key.name, new)
        except AttributeError:  # a frozen dataclass
            object.__setattr__(found, key.name, new)
    return found


def _shown(tree: Any, objects: tuple[int, ...]) -> Any:
    def one(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return _Shown("tensor")
        fields = {} if id(leaf) in objects else _fields(leaf)
        if not fields:
            return leaf
        inner = {key: _shown(value, (*objects, id(leaf))) for key, value in fields.items()}
        inside = ", ".join(
            f"{key.name if isinstance(key, pytree.GetAttrKey) else repr(key.key)}={value!r}"
            for key, value in inner.items()
        )
        kind = "" if dataclasses.is_dataclass(leaf) else type(leaf).__name__
        return _Shown(f"{kind}({inside})")

    return pytree.tree_map(one, tree)
