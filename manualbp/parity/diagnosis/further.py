"""What is wrong with a further run, in words: second order, forward mode, vmap, autocast.

Only asked where the first gradients agree: the formulas are right, and what is missing is how they
are written.
"""

from __future__ import annotations

from manualbp.parity.bits import rms, to_double
from manualbp.parity.diagnosis.evidence import cosine, factor_of
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.record import DIFFER, Finding, TensorReport

# Of a kind of check: what it usually is that numbers differ, and what to do; the same where the
# candidate raises.
USUAL: dict[str, tuple[str, str, str]] = {
    "second_order": (
        "the gradient is right and its derivative is not: what backward reads was saved as "
        "numbers, and PyTorch takes them for constants",
        "save tensors with save_for_backward, compute in backward from them by operators that have "
        "derivatives, and return hidden results as outputs",
        "leave once_differentiable off, and write backward with operators that have derivatives",
    ),
    "forward_mode": (
        "the gradient is right and the jvp is not: it is a formula of its own",
        "hold the jvp against f'(x) times the tangent, for each input",
        "give the Function a jvp",
    ),
    "autocast": (
        "right in its own dtype, wrong under autocast",
        "look at casts: grad_output and what was saved have another dtype there, and so must what "
        "is returned",
        "decorate forward with torch.amp.custom_fwd and backward with torch.amp.custom_bwd",
    ),
    "vmap": (
        "right for each input by itself, wrong for a stack of them: a sum or an index runs over "
        "the stacked dimension",
        "count dimensions from the last one, or give the Function a vmap of its own",
        "set generate_vmap_rule = True, or give the Function a vmap",
    ),
}


def diagnose_further(comparison: Comparison) -> tuple[Finding, ...]:
    """One Finding for every tensor of a further derivative that differs."""
    return tuple(
        _finding(comparison, report)
        for report in comparison.reports if report.verdict == DIFFER
    )  # fmt: skip


def _finding(comparison: Comparison, report: TensorReport) -> Finding:
    usual, step, where_raised = USUAL[comparison.kind]
    if report.reason.startswith("the candidate raised"):
        return Finding(report.name, "raised", report.reason, True, where_raised)
    words = f"{_seen(comparison, report)}; {usual}"
    return Finding(report.name, comparison.kind, words, True, step)


def _seen(comparison: Comparison, report: TensorReport) -> str:
    """The numbers in short: missing, zero, a multiple, or how far they are off."""
    found, o = comparison.ours.tensors.get(report.name), comparison.yardstick.exact.get(report.name)
    if found is None or o is None or found.shape != o.shape:
        return report.reason
    c = to_double(found)
    if not c.any():
        return "zero everywhere"
    k, error = factor_of(c, o), rms(c - o)
    if rms(c - k * o) <= 1e-3 * error:
        return f"{k:.4g} x reference"
    return (
        f"cosine {cosine(c, o):.3g}, relative error {error / rms(o):.2g}"
        if o.any()
        else (f"the reference is zero, this is {rms(c):.2g}")
    )
