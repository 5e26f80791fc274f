"""A batch in parts: what its rows contribute to each gradient, in both arms.

Gradients are linear in the output's gradient, so a run with that kept in row n alone gives row n's
contribution o_n, and c_n of the candidate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manualbp.parity.diagnosis.evidence import Evidence, Pair, Suspect, last_where, spans
from manualbp.parity.judge.tolerance import rms, to_double

GROUPS = 32  # runs of rows that are told apart before the edges of the wrong ones are looked for


class Batch:
    """Contributions of parts of the batch to every gradient; each part is run once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.rows = evidence, evidence.rows or 0
        self._parts: dict[tuple[int, int], Pair | None] = {}
        self._prefixes: dict[int, Pair | None] = {}

    def part(self, s: Suspect, start: int, stop: int) -> Suspect | None:
        """The tensor as rows [start, stop) alone make it; None where it cannot be run."""
        if self.evidence.probe is None or self.rows < 2:
            return None
        if (start, stop) not in self._parts:
            n = torch.arange(self.rows)
            mask = (n >= start) & (n < stop)
            self._parts[start, stop] = _tried(self.evidence.probe, mask)
        return self._suspect(s, self._parts[start, stop], stop - start)

    def first(self, s: Suspect, n: int) -> Suspect | None:
        """The tensor from a batch of the first n rows; None where it cannot be run."""
        if self.evidence.prefix is None:
            return None
        if n not in self._prefixes:
            self._prefixes[n] = _tried(self.evidence.prefix, n)
        return self._suspect(s, self._prefixes[n], n)

    def wrong(self, s: Suspect) -> list[tuple[int, int]]:
        """Runs [start, stop) of wrong rows that make up c - o; none where all rows are wrong."""
        if self.evidence.probe is None or self.rows < 2:
            return []
        size = -(-self.rows // GROUPS)
        groups = [(i, min(i + size, self.rows)) for i in range(0, self.rows, size)]
        verdicts = [self._verdict(s, *group) for group in groups]
        if None in verdicts or not {"wrong", "right"} <= set(verdicts):
            return []
        runs = spans([i for i, verdict in enumerate(verdicts) if verdict == "wrong"])
        edges = [(groups[a][0], groups[a][1], groups[b - 1][0], groups[b - 1][1]) for a, b in runs]
        found = [(self._start(s, a, b), self._stop(s, c, d)) for a, b, c, d in edges[:4]]
        found += [(a, d) for a, _, _, d in edges[4:]]
        parts = [self.part(s, *run) for run in found]
        apart = sum((part.c - part.o for part in parts if part is not None), s.o)
        return found if s.is_(apart) else []

    def _verdict(self, s: Suspect, start: int, stop: int) -> str | None:
        """``right``, ``wrong``, ``silent`` (these rows contribute nothing), None: not known."""
        part = self.part(s, start, stop)
        if part is None:
            return None
        if not part.o.any() and not part.c.any():
            return "silent"
        return "right" if part.right else "wrong"

    def _start(self, s: Suspect, low: int, high: int) -> int:
        """The first wrong row of a wrong group: the group's head is silent or right before it."""
        return last_where(lambda row: self._verdict(s, low, row) != "wrong", low, high)

    def _stop(self, s: Suspect, low: int, high: int) -> int:
        """Behind the last wrong row of a wrong group."""
        return 1 + last_where(lambda row: self._verdict(s, row, high) == "wrong", low, high)

    def _suspect(self, s: Suspect, pair: Pair | None, rows: int) -> Suspect | None:
        c, o = (None, None) if pair is None else (pair[0].get(s.name), pair[1].get(s.name))
        if c is None or o is None or c.shape != o.shape or not c.isfinite().all():
            return None
        c, o = to_double(c), to_double(o)
        scale = rms(o) + rms(s.s) * min(1.0, rows / max(self.rows, 1))
        return Suspect(s.name, c, o, o.abs() + scale, s.eps, s.evidence)


def _tried(run: Callable[..., Pair], argument: Tensor | int) -> Pair | None:
    """A candidate that cannot be run this way leaves that question open."""
    try:
        return run(argument)
    except Exception:
        return None
