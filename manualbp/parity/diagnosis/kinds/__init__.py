"""The kinds of wrong that can be told from numbers: small recognizers, one formula each.

To add one, write a function of a Suspect in the file of its family and put it into
``RECOGNIZERS``. It returns None, or a Pattern where rounding is all that is left unexplained.
"""

from __future__ import annotations

from collections.abc import Callable

from manualbp.parity.diagnosis.evidence import Pattern, Suspect
from manualbp.parity.diagnosis.kinds.cotangents import other_rows, twice, unused
from manualbp.parity.diagnosis.kinds.factors import factor
from manualbp.parity.diagnosis.kinds.formula import (
    missing_factor,
    missing_term,
    other_formula,
    with_the_references,
)
from manualbp.parity.diagnosis.kinds.indices import once_per_row, repeated_index
from manualbp.parity.diagnosis.kinds.places import element, lines, reordered, swapped, transposed
from manualbp.parity.diagnosis.kinds.rows import long_batches, scaled_rows, wrong_rows
from manualbp.parity.diagnosis.kinds.slopes import derivative, mask
from manualbp.parity.diagnosis.kinds.values import (
    offset,
    precision,
    rounding,
    unknown,
    zero,
)

# Asked in this order, the most specific first; the last one always answers.
RECOGNIZERS: tuple[Callable[[Suspect], Pattern | None], ...] = (
    zero, precision, once_per_row, unused, twice, other_rows, repeated_index,
    factor, swapped, transposed, reordered,
    mask, derivative, scaled_rows,
    missing_factor, missing_term,
    element, lines, other_formula, offset,
    wrong_rows, long_batches, with_the_references,
    rounding, unknown,
)  # fmt: skip
