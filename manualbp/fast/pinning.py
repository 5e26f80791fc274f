"""Which routine computes what in fast mode: as measured on this machine, or as pinned by a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manualbp.fast.cpu import routines
from manualbp.fast.gpu import choice


def policy() -> dict[str, Any]:
    """The routine of every kind of product, {"forward, wide": "oneDNN", ...}, and what it gains.

    "gain, wide": 8 says that a step by hand pays from 8 times less work on than with ATen. Kinds
    that begin with "cuda" are those of GPUs. They are here once they are measured or pinned.
    """
    return {**routines.known(), **choice.policy()}


def pin(routine_of: Mapping[str, Any] | str) -> None:
    """Take these routines from now on: one name for all, or what ``policy()`` returned.

    Where there is no routine of that name (oneDNN on GPUs, Triton elsewhere), ATen is taken.

    Raises:
        ValueError: an unknown product or routine, or a product without one.
    """
    if isinstance(routine_of, str):
        names = dict.fromkeys((*routines.ROUTINES, *choice.ROUTINES))
        if routine_of not in names:
            raise ValueError(f"expected a routine out of {', '.join(names)}, got {routine_of!r}")
        here = routine_of if routine_of in routines.ROUTINES else "ATen"
        there = routine_of if routine_of in choice.ROUTINES else "ATen"
        routine_of = {**dict.fromkeys(routines.KINDS, here), **dict.fromkeys(routines.GAINS, 1),
                      choice.ALL: there}  # fmt: skip
    on_cpu = {k: v for k, v in routine_of.items() if str(k).split(" ")[0] != choice.ALL}
    on_gpu = {k: v for k, v in routine_of.items() if k not in on_cpu}
    routines.check(on_cpu)
    choice.pin(on_gpu)
    routines.take(on_cpu)
