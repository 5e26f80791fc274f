"""Do two implementations of the same module agree? For any pair of modules.

``compare_gradients`` runs both once, forward and backward, and judges every tensor by the rule
in ``tolerance``; ``report`` prints what was found. Nothing here knows the hand-written MLP.
"""

from __future__ import annotations

from manualbp.parity.gradients import GradientReport, compare_gradients
from manualbp.parity.tolerance import TensorReport, bit_identical, compare_tensors, ulp_distance

__all__ = [
    "GradientReport",
    "TensorReport",
    "bit_identical",
    "compare_gradients",
    "compare_tensors",
    "ulp_distance",
]
