"""Each planted fault is recognized as what it is, and as nothing else."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from manualbp.parity import compare_tensors
from manualbp.parity.diagnosis.diagnose import diagnose
from tests.parity.diagnosis.by_hand import Rules, evidence_of, found, gather, inputs
from tests.parity.diagnosis.planted import FAULTS, OTHER_BITS, W, dropped, times, weight


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_recognized_as_itself(fault: str) -> None:
    """Its kind, its words, whose fault it is; and no tensor that agrees has a finding."""
    rules, tensor, kind, words = FAULTS[fault]
    evidence = evidence_of(rules)
    findings = {f.tensor: f for f in diagnose(evidence)}
    assert findings[tensor].kind == kind
    assert re.search(words, findings[tensor].words)
    assert findings[tensor].here is True
    assert set(findings) == {report.name for report in evidence.reports if not report.agrees}


@pytest.mark.parametrize(
    "fault", ["mean for sum", "dropped", "no mask", "f'(a)", "element", "long"]
)
@pytest.mark.parametrize(("rows", "dtype"), [(70, torch.float32), (13, torch.float64)])
def test_the_same_in_groups_of_rows_and_in_float64(
    fault: str, rows: int, dtype: torch.dtype
) -> None:
    rules, tensor, kind, words = FAULTS[fault]
    finding = found(rules, rows, dtype)[tensor]
    assert finding.kind == kind
    assert re.search(words.replace("of 13", "of 70").replace("13 rows", f"{rows} rows"),
                     finding.words) or rows == 13  # fmt: skip


def test_a_last_tile_among_groups_of_rows() -> None:
    finding = found(dropped(slice(-6, None)), rows=70)[W]
    assert "the contribution of rows 64 to 69 of 70 is missing: the last tile" in finding.words
    finding = found(dropped([5, 41]), rows=70)[W]
    assert "the contribution of rows 5 and 41 of 70 is missing" in finding.words


@pytest.mark.parametrize("fault", ["twice", "zero", "transposed", "swapped", "dropped tile", "row"])
def test_gross_faults_in_bfloat16(fault: str) -> None:
    """Most is rounding there, but what is seen at all is not taken for something else."""
    rules, tensor, kind, _ = FAULTS[fault]
    findings = found(rules, dtype=torch.bfloat16)
    assert tensor not in findings or findings[tensor].kind == kind


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_never_given_a_name(seed: int) -> None:
    """Of any strength, in the weights or in delta, and with units that are dead in ReLU."""
    for strength in (1.0, 1e-2, 1e-4):
        generator = torch.Generator().manual_seed(seed)

        def change(g: Tensor, k: float = strength, of: torch.Generator = generator) -> Tensor:
            return g + k * g.abs().mean() * torch.randn(g.shape, generator=of)

        assert found(weight(change))[W].kind == "unknown"
        rules = Rules(bias=lambda layer, d: change(d.sum(0)) if layer == 2 else d.sum(0))
        assert found(rules)["4.bias.grad"].kind == "unknown"


def test_other_bits_are_rounding() -> None:
    evidence = evidence_of(OTHER_BITS)
    assert not diagnose(evidence)
    exact = tuple(
        compare_tensors(n, evidence.candidate[n], o.float(), o, sums=evidence.sums[n], exact=True)
        for n, o in evidence.exact.items() if n.endswith("weight.grad")
    )  # fmt: skip
    findings = diagnose(replace(evidence, reports=exact))
    assert findings and {f.kind for f in findings} == {"rounding"}


def test_a_missing_term_of_layer_normalization() -> None:
    """dx = r (g - mean g - x^ mean(g x^)) without mean g is off by the same along a row."""

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            r = (x.var(1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
            ctx.save_for_backward((x - x.mean(1, keepdim=True)) * r, r)
            return (x - x.mean(1, keepdim=True)) * r

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            x, r = ctx.saved_tensors
            return r * (grads[0] - x * (grads[0] * x).mean(1, keepdim=True))

    class Mine(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return Norm.apply(x) * self.weight + self.bias

    (finding,) = diagnose(gather(Mine(6), nn.LayerNorm(6), inputs()))
    assert finding.tensor == "input.grad" and finding.here is True
    assert finding.kind == "missing term" and "lacks -mean(g, 1)" in finding.words


def test_gelu_s_backward_by_its_tanh_formula() -> None:
    """Off by 3e-4: seen, and told from every other derivative."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            ctx.save_for_backward(z)
            return functional.gelu(z)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            (z,) = ctx.saved_tensors
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                a = functional.gelu(z, approximate="tanh")
            return torch.autograd.grad(a, z, grads[0])[0]

    class Gelu(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return Wrong.apply(z)

    torch.manual_seed(0)
    reference = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))
    candidate = copy.deepcopy(reference)
    candidate[1] = Gelu()
    finding = diagnose(gather(candidate, reference, inputs()))[0]
    assert finding.tensor == "0.weight.grad" and finding.kind == "derivative"
    assert "the derivative of tanh GELU in place of that of GELU" in finding.words


def test_batch_normalization_mixes_rows() -> None:
    """Rows are told apart by the output's gradient, also where the forward mixes them."""
    torch.manual_seed(0)
    reference = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))
    candidate = copy.deepcopy(reference)
    candidate.register_forward_hook(lambda *args: Half.apply(args[2]))
    findings = diagnose(gather(candidate, reference, inputs()))
    assert findings[0].tensor == "2.weight.grad"
    assert all("row 3 of 13 counts 0.5 times" in f.words for f in findings)


class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor) -> Tensor:
        return o.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return times(3, 0.5)(grads[0])
