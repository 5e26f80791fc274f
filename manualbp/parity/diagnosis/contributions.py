"""What single rows of the batch contribute to a gradient, in both arms.

Gradients are linear in the output's gradient. A run in which that is zero outside of row n gives
row n's contribution o_n, and c_n of the candidate.
"""

from __future__ import annotations

from collections.abc import Callable

from manualbp.parity.bits import rms, to_double
from manualbp.parity.diagnosis.evidence import Rerun, Suspect
from manualbp.parity.diagnosis.wording import spans

GROUPS = 32  # groups of rows that are told apart before the edges of the wrong ones are looked for


def contribution(s: Suspect, start: int, stop: int) -> Suspect | None:
    """The gradient that rows [start, stop) alone make; None where it cannot be run."""
    if not s.name.endswith(".grad") or (s.evidence.rows or 0) < 2:
        return None
    return _suspect(s, s.evidence.of_rows(start, stop), stop - start)


def of_shorter_batch(s: Suspect, n: int) -> Suspect | None:
    """The gradient from a batch of the first n rows; None where it cannot be run."""
    if not s.name.endswith(".grad"):
        return None
    return _suspect(s, s.evidence.of_first(n), n)


def wrong_spans(s: Suspect) -> list[tuple[int, int]]:
    """Spans [start, stop) of wrong rows that make up c - o; none where all rows are wrong."""
    count = s.evidence.rows or 0
    size = -(-count // GROUPS) or 1
    groups = [(i, min(i + size, count)) for i in range(0, count, size)]
    verdicts = [_verdict(s, *group) for group in groups]
    if None in verdicts or not {"wrong", "right"} <= set(verdicts):
        return []
    wrong = spans([i for i, verdict in enumerate(verdicts) if verdict == "wrong"])
    edges = [(groups[a][0], groups[a][1], groups[b - 1][0], groups[b - 1][1]) for a, b in wrong]
    found = [(_start(s, a, b), _stop(s, c, d)) for a, b, c, d in edges[:4]]
    found += [(a, d) for a, _, _, d in edges[4:]]
    parts = [contribution(s, *span) for span in found]
    apart = sum((part.c - part.o for part in parts if part is not None), s.o)
    return found if s.is_(apart) else []


def last_where(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last number below ``high`` where it holds, as it does at ``low``: by bisection."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _verdict(s: Suspect, start: int, stop: int) -> str | None:
    """``right``, ``wrong``, ``silent`` (these rows contribute nothing), None: not known."""
    part = contribution(s, start, stop)
    if part is None:
        return None
    if not part.o.any() and not part.c.any():
        return "silent"
    return "right" if part.right else "wrong"


def _start(s: Suspect, low: int, high: int) -> int:
    """The first wrong row of a wrong group; the rows before it are silent or right."""
    return last_where(lambda row: _verdict(s, low, row) != "wrong", low, high)


def _stop(s: Suspect, low: int, high: int) -> int:
    """The row after the last wrong row of a wrong group."""
    return 1 + last_where(lambda row: _verdict(s, row, high) == "wrong", low, high)


def _suspect(s: Suspect, rerun: Rerun | None, rows: int) -> Suspect | None:
    """The same tensor in another run."""
    c, o = (None, None) if rerun is None else (rerun[0].get(s.name), rerun[1].get(s.name))
    if c is None or o is None or c.shape != o.shape or not c.isfinite().all():
        return None
    c, o = to_double(c), to_double(o)
    scale = rms(o) + rms(s.s) * min(1.0, rows / max(s.evidence.rows or 0, 1))
    return Suspect(s.name, c, o, o.abs() + scale, s.eps, s.evidence)
