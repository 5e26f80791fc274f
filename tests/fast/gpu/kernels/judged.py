"""The project's own rule over dicts of tensors, and what kernels are called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from manualbp.maths import activations
from manualbp.maths.activations import ACTIVATIONS, Activation
from manualbp.parity import compare_tensors
from tests.fast.gpu.kernels.conftest import CUDA

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Every activation, and those with parameters with others than the defaults.
FS: Sequence[Activation] = (
    *ACTIVATIONS.values(),
    activations.LeakyReLU(0.2),
    activations.ELU(0.5),
    activations.Softplus(2.0, 5.0),
    activations.Hardtanh(-0.3, 2.0),
)
# What has been compiled stays as it is, so faults can be planted into interpreted kernels alone.
interpreted = pytest.mark.skipif(CUDA, reason="faults are planted into interpreted kernels")
Tensors = Mapping[str, Tensor | None]


def differing(found: Tensors, reference: Tensors, exact: Tensors) -> list[str]:
    """What is further from ``exact`` than twice the reference's own distance, and the floors."""
    assert found.keys() == reference.keys() == exact.keys()
    reports = [compare_tensors(k, found[k], reference[k], exact[k]) for k in reference]
    return [f"{report.name}: {report.reason}" for report in reports if not report.agrees]


def elsewhere_finite(found: Tensors, reference: Tensors, exact: Tensors) -> list[str]:
    """What has NaN or an infinity where neither the reference nor ``exact`` has it.

    On CPU PyTorch's GELU makes NaN of infinity in float32 and infinity of it in float64.
    """
    marks = [(name, *map(_marks, (t, reference[name], exact[name]))) for name, t in found.items()]
    return [name for name, ours, theirs, e in marks if not ((ours == theirs) | (ours == e)).all()]


def _marks(t: Tensor | None) -> Tensor:
    """1 for NaN, 2 and 3 for the infinities, 0 for numbers."""
    assert t is not None
    return torch.where(t.isfinite(), 0.0, torch.nan_to_num(t.double(), 1, 2, 3))
