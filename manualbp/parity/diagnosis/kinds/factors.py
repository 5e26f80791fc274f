"""A gradient that is a multiple of the right one, and what the multiple may come from."""

from __future__ import annotations

import math

from manualbp.parity.diagnosis.evidence import Pattern, Suspect, factor_of

# A named factor is taken for k within this relative distance, or 4 eps where that is more.
NEAR = 1e-3


def factor(s: Suspect) -> Pattern | None:
    """c = k o with k = <c, o> / <o, o>."""
    k = factor_of(s.c, s.o)
    if not s.is_(k * s.o, max(1.0, abs(k)) * s.s):
        return None
    named = _named(k, s)
    if s.o.count_nonzero() < 2 and not named:
        return None  # a single number is always some multiple of another
    short = s.name if s.name.startswith("input") else s.name.removesuffix(".grad")
    words = f"{short} = {k:#.4g} x reference, cosine {math.copysign(1, k):.3f}"
    kind = "sign" if abs(k + 1) < max(NEAR, 4 * s.eps) else "factor"
    if named:
        words += f": {' or '.join(meaning for _, meaning, _ in named)}"
    step = named[0][2] if named else f"look for a scale of {k:.4g} that is left over"
    exact = named[0][0] if named else float(f"{k:.3g}")
    return Pattern(kind, words, f"in the backward of {s.layer}, {step}", exact)


def _named(k: float, s: Suspect) -> list[tuple[float, str, str]]:
    """What a factor may come from: its exact value, the words for it, and what to do."""
    output = next((t for n, t in s.evidence.exact.items() if n.startswith("output")), s.o)
    rows = s.evidence.rows or 1
    total, outputs = output.numel(), output.numel() // rows
    terms = ("delta", "delta^T a")[s.o.dim() - 1] if s.o.dim() in (1, 2) else "its terms"
    terms = "its terms" if s.name.startswith("input") else terms
    known: list[tuple[float, str, str]] = [(-1.0, "the sign is wrong", f"negate {s.name}")]
    for n, what, short in ((rows, f"the {rows} rows", "the batch"),
                           (outputs, f"the {outputs} outputs of a row", "the outputs"),
                           (total, f"all {total} outputs", "all outputs")):  # fmt: skip
        known += [(n, f"a sum over {what} where the reference takes a mean",
                   f"average {terms} over {short} instead of summing"),
                  (1 / max(n, 1), f"a mean over {what} where the reference takes a sum",
                   f"sum {terms} over {short} instead of averaging")]  # fmt: skip
    known += [(2.0, "counted twice, or the 1/2 of the squared error is missing", "halve it"),
              (0.5, "half of it is missing, or the 2 of a square's derivative",
               "double it")]  # fmt: skip
    for d in dict.fromkeys(n for n in s.o.shape if n > 1):
        root = math.sqrt(d)
        known += [(root, f"the scale 1/sqrt({d}) is missing", f"divide by sqrt({d})"),
                  (1 / root, f"the scale 1/sqrt({d}) is in it once too often",
                   f"take the scale 1/sqrt({d}) only once")]  # fmt: skip
    near = max(NEAR, 4 * s.eps)
    found = [item for item in known if abs(k / item[0] - 1) < near and item[0] != 1]
    return list({words: (value, words, step) for value, words, step in found}.values())
