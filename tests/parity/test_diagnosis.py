"""diagnose: each planted fault is recognized as what it is, and as nothing else."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from manualbp.parity import compare_tensors
from manualbp.parity.arms.calls import Call
from manualbp.parity.arms.forward import only_rows
from manualbp.parity.arms.runs import backward
from manualbp.parity.arms.subject import subject
from manualbp.parity.diagnosis.diagnose import diagnose
from manualbp.parity.diagnosis.evidence import Evidence, Rerun
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.yardstick import in_float64
from manualbp.parity.record import Finding

N, SIZES = 13, (6, 8, 8, 5)  # lengths that cannot be mistaken for each other


@dataclass(frozen=True)
class Rules:
    """The formulas of a backward pass; a fault is another one."""

    weight: Callable[[int, Tensor, Tensor], Tensor] = lambda _, delta, h: delta.t() @ h
    bias: Callable[[int, Tensor], Tensor] = lambda _, delta: delta.sum(0)
    slope: Callable[[int, Tensor], Tensor] = lambda l, z: slope(l, z)  # noqa: E741
    first: Callable[[Tensor], Tensor] = lambda grad: grad
    into: Callable[[Tensor], Tensor] = lambda dx: dx
    order: Callable[[list[Tensor]], list[Tensor]] = lambda gradients: gradients


def slope(layer: int, z: Tensor) -> Tensor:
    """tanh behind layer 0, ReLU behind layer 1."""
    return 1 - z.tanh() ** 2 if layer == 0 else (z > 0).to(z.dtype)


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rules: Rules, x: Tensor, *p: Tensor) -> Tensor:
        z0 = functional.linear(x, p[0], p[1])
        z1 = functional.linear(z0.tanh(), p[2], p[3])
        ctx.rules = rules
        ctx.save_for_backward(x, z0, z1, *p)
        return functional.linear(z1.relu(), p[4], p[5])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, z0, z1, *p = ctx.saved_tensors
        rules, delta = ctx.rules, ctx.rules.first(grads[0])
        found: list[Tensor] = []
        for layer, h, z in ((2, z1.relu(), z1), (1, z0.tanh(), z0), (0, x, x)):
            found = [rules.weight(layer, delta, h), rules.bias(layer, delta), *found]
            delta = delta @ p[2 * layer]
            if layer:
                delta = delta * rules.slope(layer - 1, z)
        return None, rules.into(delta), *rules.order(found)


class Mine(nn.Sequential):
    rules = Rules()

    def forward(self, x: Tensor) -> Tensor:
        return ByHand.apply(self.rules, x, *self.parameters())


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    i, h, k, o = SIZES
    net = nn.Sequential(nn.Linear(i, h), nn.Tanh(), nn.Linear(h, k), nn.ReLU(), nn.Linear(k, o))
    return net.to(dtype)


def inputs(rows: int = N) -> Tensor:
    return torch.randn(rows, SIZES[0], generator=torch.Generator().manual_seed(1))


def gather(candidate: nn.Module, reference: nn.Module, x: Tensor, **options: Any) -> Evidence:
    """The evidence of one backward check of two modules of one batch dimension."""
    seed, loss = 0, options.pop("loss", None)
    call = Call.of(x, loss, None, seed)
    ours, theirs = subject(candidate), subject(reference)
    comparison = Comparison("backward", ours, theirs, call, **options)
    double = theirs.copy(torch.float64)
    assert double.module is not None
    ran: dict[str, Tensor] = {}
    for name, child in double.module.named_modules():
        if not list(child.children()):
            child.register_forward_hook(lambda _, __, z, name=name: ran.update({name: z.detach()}))
    call64 = in_float64(call)
    double.call(*call64.args)
    pre = dict(ran)
    names = [n for layer in reversed(pre) for n in theirs.parameters if n.startswith(f"{layer}.")]

    def both(c: Call, hook: Any = None) -> Rerun:
        d = comparison.directions if hook else copy.deepcopy(comparison.directions)
        if not hook:
            d.drawn = {n: v[: len(c.args[0])] for n, v in d.drawn.items()}
        exact = backward(double, in_float64(c), d, hook).tensors
        got = backward(ours, c, d, hook).tensors
        return got, {n: v for n, v in exact.items() if v is not None}

    return Evidence(
        reports=comparison.reports, candidate=comparison.ours.tensors,
        exact=comparison.yardstick.exact, sums=comparison.yardstick.sums,
        order=(*(f"{n}.grad" for n in names), "input.grad"),
        layers={f"{n}.grad": n.rpartition(".")[0] for n in names} | {"input.grad": "0"},
        rows=comparison.rows, pre_activations=pre,
        probe=lambda mask: both(call, only_rows(mask)),
        prefix=lambda n: both(replace(call, args=(x[:n],))),
    )  # fmt: skip


def evidence_of(rules: Rules, rows: int = N, dtype: torch.dtype = torch.float32) -> Evidence:
    reference = network(dtype)
    candidate = Mine(*copy.deepcopy(list(reference)))
    candidate.rules = rules
    return gather(candidate, reference, inputs(rows).to(dtype))


def found(rules: Rules, rows: int = N, dtype: torch.dtype = torch.float32) -> dict[str, Finding]:
    return {f.tensor: f for f in diagnose(evidence_of(rules, rows, dtype))}


def weight(change: Callable[[Tensor], Tensor], layer: int = 1) -> Rules:
    return Rules(weight=lambda k, d, h: change(d.t() @ h) if k == layer else d.t() @ h)


def bias(change: Callable[[Tensor], Tensor], layer: int = 1) -> Rules:
    return Rules(bias=lambda k, d: change(d) if k == layer else d.sum(0))


def times(at: Any, k: float) -> Callable[[Tensor], Tensor]:
    def change(g: Tensor) -> Tensor:
        g = g.clone()
        g[at] *= k
        return g

    return change


def noise(strength: float) -> Callable[[Tensor], Tensor]:
    def change(g: Tensor) -> Tensor:
        return g * (1 + strength * torch.randn(g.shape, generator=torch.Generator().manual_seed(3)))

    return change


def exchanged(g: list[Tensor]) -> list[Tensor]:
    return [g[0], g[3], g[2], g[1], *g[4:]]


def by_rows(change: Callable[[Tensor, Tensor], Tensor], layer: int = 1) -> Rules:
    """Another weight gradient made of delta and h."""
    return Rules(weight=lambda k, d, h: change(d, h) if k == layer else d.t() @ h)


def dropped(rows: slice | list[int], k: float = 0.0) -> Rules:
    return by_rows(lambda d, h: times(rows, k)(d).t() @ h)


def only_at(layer: int, change: Callable[[Tensor], Tensor]) -> Rules:
    return Rules(slope=lambda l, z: change(z) if l == layer else slope(l, z))  # noqa: E741


def garbage(d: Tensor, h: Tensor) -> Tensor:
    return torch.cat([d[:9], d[9:].roll(1, 1)]).t() @ h


def odd_when_long(d: Tensor, h: Tensor) -> Tensor:
    return d.t() @ h.roll(1, 1).abs() if len(d) > 7 else d.t() @ h


W, B = "2.weight.grad", "2.bias.grad"
# The fault, the tensor that shows it, its kind and words.
FAULTS: dict[str, tuple[Rules, str, str, str]] = {
    "zero": (weight(torch.zeros_like), W, "zero", "zero everywhere"),
    "NaN": (weight(times((2, 3), float("nan"))), W, "not finite", r"1 of 64 elements NaN, .*2, 3"),
    "sum for mean": (bias(lambda d: d.sum(0) * N), B, "factor", "sum over the 13 rows where"),
    "mean for sum": (bias(lambda d: d.mean(0)), B, "factor", "mean over the 13 rows where"),
    "outputs": (bias(lambda d: d.sum(0) / 5), B, "factor", "mean over the 5 outputs of a row"),
    "all outputs": (bias(lambda d: d.sum(0) * 65), B, "factor", "sum over all 65 outputs"),
    "twice": (weight(lambda g: 2 * g), W, "factor", r"2.weight = 2.000 x .* counted twice"),
    "half": (weight(lambda g: g / 2), W, "factor", "half of it is missing"),
    "sqrt": (weight(lambda g: g / 8**0.5), W, "factor", r"1/sqrt\(8\) is in it once too often"),
    "plain": (weight(lambda g: g * 0.7), W, "factor", "= 0.7000 x reference, cosine 1.000"),
    "1 %": (weight(lambda g: g * 1.01), W, "factor", "= 1.010 x reference"),
    "sign": (weight(lambda g: -g), W, "sign", "cosine -1.000"),
    "transposed": (weight(lambda g: g.t()), W, "transposed", "order of the transpose"),
    "read in another order": (
        weight(lambda g: g.t().contiguous().view(g.shape), 0), "0.weight.grad", "transposed", ""),
    "reversed": (weight(lambda g: g.flip(1)), W, "reordered", "columns reversed"),
    "rolled": (weight(lambda g: g.roll(1, 0)), W, "reordered", "rows rolled by 1"),
    "halves": (weight(lambda g: g.roll(4, 0)), W, "reordered", "two halves of the rows exchanged"),
    "two exchanged": (weight(lambda g: g[[0, 5, 2, 3, 4, 1, 6, 7]]), W, "reordered",
                      "rows 1 and 5 exchanged"),
    "swapped": (Rules(order=exchanged), B, "swapped", "exchanged with the gradient of 0.bias"),
    "bfloat16": (weight(lambda g: g.bfloat16().float()), W, "precision", "8 sig.* bfloat16"),
    "float16": (weight(lambda g: g.half().float()), W, "precision", "11 sig.* float16"),
    "element": (weight(times((2, 3), 2.0)), W, "element", r"\[2, 3\]"),
    "element 1 %": (weight(times((2, 3), 1.01)), W, "element", r"\[2, 3\]"),
    "element of a bias": (bias(lambda d: times(4, 0.5)(d.sum(0))), B, "element", r"\[4\]"),
    "row": (weight(times(5, 0.0)), W, "line", "row 5 of 8 differs, which is zero"),
    "column 1 %": (weight(times((slice(None), 3), 1.01)), W, "line", "column 3 of 8 .* 1.01 x"),
    "last columns": (weight(times((slice(None), slice(5, None)), 3.0)), W, "tile",
                     "columns 5 to 7 of 8 differ, there 3 x reference: the last tile"),
    "two rows": (weight(times([1, 4], 0.9)), W, "lines", "rows 1 and 4 of 8"),
    "constant": (weight(lambda g: g + 0.25), W, "offset", r"reference \+ 0.25 everywhere"),
    "along": (weight(lambda g: g + g.mean(1, keepdim=True)), W, "offset", "along dimension 1"),
    "dropped": (dropped([5]), W, "rows", "contribution of row 5 of 13 is missing"),
    "dropped tile": (dropped(slice(9, None)), W, "rows",
                     "of rows 9 to 12 of 13 is missing: the last tile"),
    "row twice": (dropped([5], 2.0), W, "rows", "row 5 of 13 counted twice"),
    "row 1 %": (dropped([0], 1.01), W, "rows", "row 0 of 13 counts 1.01 times"),
    "garbage": (by_rows(garbage), W, "rows", "wrong only in rows 9 to 12 of 13: the last tile"),
    "long": (by_rows(odd_when_long), W, "batch length", "up to 7 rows, wrong from 8 on"),
    "no mask": (only_at(1, torch.ones_like), W, "mask", "<= 0: the mask"),
    "inverted mask": (only_at(1, lambda z: (z <= 0).to(z.dtype)), W, "mask", "inverted"),
    "leak": (only_at(1, lambda z: slope(1, z).clamp(min=0.01)), W, "mask", "<= 0: the mask"),
    "no derivative": (only_at(0, torch.ones_like), "0.bias.grad", "derivative",
                      "the derivative of tanh is missing"),
    "f'(a)": (only_at(0, lambda z: 1 - z.tanh().tanh() ** 2), "0.weight.grad", "derivative",
              r"f'\(a\) in place of f'\(z\)"),
    "1 - z^2": (only_at(0, lambda z: 1 - z**2), "0.bias.grad", "derivative", r"1 - z\^2"),
    "noise": (weight(noise(0.3)), W, "unknown", r"no known pattern: cosine 0\.\d+, relative"),
    "noise 1 %": (weight(noise(0.01)), W, "unknown", "cosine 1, relative error 0.01"),
    "noise in a bias": (bias(lambda d: noise(0.3)(d.sum(0))), B, "unknown", "no known pattern"),
}  # fmt: skip


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
def test_the_same_in_groups_of_rows_andin_float64(
    fault: str, rows: int, dtype: torch.dtype
) -> None:
    rules, tensor, kind, words = FAULTS[fault]
    finding = found(rules, rows, dtype)[tensor]
    assert finding.kind == kind
    assert re.search(words.replace("of 13", "of 70").replace("13 rows", f"{rows} rows"),
                     finding.words) or rows == 13  # fmt: skip


def test_a_last_tile_among_groups_of_rows() -> None:
    finding = found(dropped(slice(64, None)), rows=70)[W]
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


def test_a_factor_that_comes_in_is_blamed_on_the_layer_it_comes_from() -> None:
    rules = only_at(1, lambda z: 3 * slope(1, z))
    findings = diagnose(evidence_of(rules))
    assert [f.tensor for f in findings] == [W, B, "0.weight.grad", "0.bias.grad", "input.grad"]
    assert {f.kind for f in findings} == {"factor"}
    assert [f.here for f in findings] == [True, True, False, False, False]
    assert "the step from layer 4 to layer 2" in findings[0].words
    assert "what arrives at layer 0 is wrong already: look at layer 2 first" in findings[2].words
    assert findings[2].next_step.startswith("mend layer 2 first")


def test_what_a_wrong_delta_does_to_other_layers_is_left_open() -> None:
    findings = found(FAULTS["no mask"][0])
    assert findings["0.weight.grad"].kind == "unknown" and findings["0.weight.grad"].here is None
    findings = found(FAULTS["no derivative"][0])
    assert findings["input.grad"].here is None
    assert "made of the same delta as 0.weight.grad" in findings["input.grad"].words


def test_the_gradient_of_the_input_alone() -> None:
    finding = found(Rules(into=lambda dx: 2 * dx))["input.grad"]
    assert finding.kind == "factor" and finding.here is True


def test_a_loss_that_sends_back_a_sum() -> None:
    """Every gradient is N times too large, as of a candidate's loss without its mean."""
    reference = network()
    candidate = Mine(*copy.deepcopy(list(reference)))
    candidate.rules = Rules(first=lambda grad: grad * N)
    findings = diagnose(gather(candidate, reference, inputs(), loss=lambda o: o.square().mean()))
    assert len(findings) == 7 and findings[0].tensor == "4.weight.grad"
    for finding in findings:
        assert finding.here is False and "gradient that the loss sends back" in finding.words
    assert "a sum over the 13 rows where the reference takes a mean" in findings[0].words


@pytest.mark.parametrize("arrives", [True, False])
def test_what_was_watched_decides(arrives: bool) -> None:
    evidence = evidence_of(only_at(1, lambda z: 3 * slope(1, z)))
    findings = diagnose(replace(evidence, incoming={"4": True, "2": arrives, "0": False}))
    assert findings[0].here is arrives
    assert ("own backward" in findings[0].words) is arrives
    assert findings[2].here is False


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


def test_other_bits_are_rounding() -> None:
    evidence = evidence_of(Rules(weight=lambda _, d, h: (h.t().flip(1) @ d.flip(0)).t()))
    assert not diagnose(evidence)
    exact = tuple(
        compare_tensors(n, evidence.candidate[n], o.float(), o, sums=evidence.sums[n], exact=True)
        for n, o in evidence.exact.items() if n.endswith("weight.grad")
    )  # fmt: skip
    findings = diagnose(replace(evidence, reports=exact))
    assert findings and {f.kind for f in findings} == {"rounding"}


def test_without_probes_and_with_ones_that_raise() -> None:
    def fails(_: Any) -> Rerun:
        raise RuntimeError("no such batch")

    evidence = evidence_of(FAULTS["dropped"][0])
    for probe in (None, fails):
        (finding,) = diagnose(replace(evidence, probe=probe, prefix=probe, pre_activations={}))
        assert finding.kind in ("unknown", "lines")


def test_a_pair_that_agrees_has_no_finding() -> None:
    assert diagnose(evidence_of(Rules())) == ()


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
    assert finding.kind == "offset" and "a mean or sum over dimension 1" in finding.next_step


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
    assert finding.kind == "reference" and "4 in the float64 run" in finding.words
