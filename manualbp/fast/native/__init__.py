"""The same equations in C++: exact as one node, fast as one pass over tiles of rows.

csrc/          the sources; bindings.cpp is what Python sees of them
exact.py       chains and losses as exact nodes: for which layers
tiled.py       chains, and chains with their loss, by tiles: for which layers
jets.py        derivatives by the input: for which chains
target.py      what a library is built for, which is its name
compiling.py   ``python -m manualbp build``
loading.py     finds it by its name; ``python -m manualbp status`` says what was found

Everything works without it. docs/native.md has the rest.
"""

from __future__ import annotations

from manualbp.fast.native.compiling import BuildError, build, plan
from manualbp.fast.native.loading import (
    NativeStepWarning,
    find,
    library,
    loads,
    status,
    warn_if_missing,
)
from manualbp.fast.native.target import here

__all__ = [
    "BuildError",
    "NativeStepWarning",
    "build",
    "find",
    "here",
    "library",
    "loads",
    "plan",
    "status",
    "warn_if_missing",
]
