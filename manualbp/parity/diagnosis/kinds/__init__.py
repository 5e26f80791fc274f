"""The kinds of wrong that can be told from numbers: small recognizers, one formula each.

To add one, write a function of a Suspect in the file of its family and put it into
``RECOGNIZERS``. It returns None, or a Pattern where rounding is all that is left unexplained.
"""

from __future__ import annotations

from collections.abc import Callable

from manualbp.parity.diagnosis.evidence import Pattern, Suspect
from manualbp.parity.diagnosis.kinds.places import element, lines, reordered, swapped, transposed
from manualbp.parity.diagnosis.kinds.rows import long_batches, scaled_rows, wrong_rows
from manualbp.parity.diagnosis.kinds.slopes import derivative, mask
from manualbp.parity.diagnosis.kinds.values import (
    factor,
    offset,
    precision,
    rounding,
    unknown,
    zero,
)

# Asked in this order, the most specific first; the last one always answers.
RECOGNIZERS: tuple[Callable[[Suspect], Pattern | None], ...] = (
    zero, precision, factor, swapped, transposed, reordered,
    mask, derivative, scaled_rows,
    element, lines, offset,
    wrong_rows, long_batches,
    rounding, unknown,
)  # fmt: skip
