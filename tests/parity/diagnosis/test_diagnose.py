"""What is said before any number is asked, and that every tensor has one finding."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import compare_tensors
from manualbp.parity.diagnosis.diagnose import diagnose
from manualbp.parity.diagnosis.evidence import Evidence, Rerun
from manualbp.parity.record import Finding
from tests.parity.diagnosis.by_hand import Mine, N, Rules, evidence_of, gather, inputs, network
from tests.parity.diagnosis.planted import FAULTS, B, W, noise


def test_a_forward_that_differs_comes_first() -> None:
    reference = network()
    candidate = copy.deepcopy(reference)
    candidate[4].register_forward_hook(lambda *args: 2 * args[2])
    findings = diagnose(gather(candidate, reference, inputs()))
    assert findings[0].tensor == "output" and findings[0].kind == "factor"
    assert "the forward differs already: gradients cannot be judged" in findings[0].words
    assert all(f.here is None and f.next_step.startswith("make the forward") for f in findings)


def altered(name: str, value: Tensor | None, rows: int = N) -> Finding:
    """A gradient replaced as it stands, as no autograd would let it pass."""
    evidence = evidence_of(Rules(), rows)
    candidate = {**evidence.candidate, name: value}
    report = compare_tensors(name, value, evidence.exact[name].float(), evidence.exact[name],
                             sums=evidence.sums[name])  # fmt: skip
    (finding,) = diagnose(replace(evidence, candidate=candidate, reports=(report,)))
    return finding


@pytest.mark.parametrize(
    ("name", "value", "kind", "words"),
    [
        (W, None, "missing", "returned None, detached, or never asked for"),
        (B, torch.ones(N, 8), "shape", "not summed over the batch"),
        (B, torch.ones(1, 8), "shape", "keepdim"),
        ("0.weight.grad", torch.ones(6, 8), "shape", "the transpose"),
        (W, torch.ones(64), "shape", "as many numbers"),
        (W, torch.ones(8), "shape", "summed over 1 dimension"),
        (W, torch.ones(3, 3), "shape", r"shape \(3, 3\) in place of \(8, 8\)$"),
        (W, torch.ones(8, 8).double(), "dtype", "torch.float64 in place of torch.float32"),
        (B, torch.full((8,), torch.inf), "not finite", "8 of 8 elements infinite"),
    ],
)
def test_what_no_number_is_needed_for(
    name: str, value: Tensor | None, kind: str, words: str
) -> None:
    finding = altered(name, value)
    assert finding.kind == kind and re.search(words, finding.words.split(";")[0])


def test_a_candidate_that_raises_and_one_that_has_more() -> None:
    class Broken(Mine):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such kernel")

    reference = network()
    broken = Broken(*copy.deepcopy(list(reference)))
    (finding,) = diagnose(gather(broken, reference, inputs()))
    assert finding.kind == "raised" and "no such kernel" in finding.words
    more = copy.deepcopy(reference)
    more.scale = nn.Parameter(torch.ones(()))
    more.register_forward_hook(lambda module, _, o: o * module.scale)
    (finding,) = diagnose(gather(more, reference, inputs()))
    assert finding.tensor == "scale.grad" and finding.kind == "extra"


def test_without_probes_and_with_ones_that_raise() -> None:
    def fails(_: Any) -> Rerun:
        raise RuntimeError("no such batch")

    evidence = evidence_of(FAULTS["dropped"][0])
    for probe in (None, fails):
        (finding,) = diagnose(replace(evidence, probe=probe, prefix=probe, pre_activations={}))
        assert finding.kind in ("unknown", "lines")


def test_a_pair_that_agrees_has_no_finding() -> None:
    assert diagnose(evidence_of(Rules())) == ()


SHAPES = [(), (1,), (2,), (1, 1), (3, 1), (1, 3), (2, 3, 4), (4, 3, 3, 3)]
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like, "twice": lambda g: 2 * g, "noise": noise(0.1),
    "reversed": lambda g: g.flip(0) if g.dim() else -g, "constant": lambda g: g + 1,
    "one": lambda g: torch.cat([g.flatten()[:-1], g.flatten()[-1:] * 3]).reshape(g.shape),
    "infinite": lambda g: g / 0,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_every_shape_gets_one_finding(change: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    for o in (torch.randn(shape, generator=generator).double(), torch.zeros(shape).double()):
        c = CHANGES[change](o.float())
        report = compare_tensors("p.grad", c, o.float(), o, sums=o.abs())
        evidence = Evidence((report,), {"p.grad": c}, {"p.grad": o}, {"p.grad": o.abs()})
        assert len(diagnose(evidence)) == (not report.agrees)


def test_infinities_of_a_mask_are_no_fault_of_their_own() -> None:
    o = torch.tensor([1.0, -torch.inf, 2.0, 3.0]).double()
    c = 2 * o.float()
    report = compare_tensors("output", c, o.float(), o)
    (finding,) = diagnose(Evidence((report,), {"output": c}, {"output": o}, {"output": o.abs()}))
    assert finding.kind == "factor"
    nan = torch.full_like(o, torch.nan)
    report = compare_tensors("output", c, nan.float(), nan)
    (finding,) = diagnose(Evidence((report,), {"output": c}, {"output": nan}, {"output": nan}))
    assert finding.kind == "reference" and "4 in the reference" in finding.words
