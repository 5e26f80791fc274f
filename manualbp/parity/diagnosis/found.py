"""What several checks of one pair show beside their verdicts: power, situations, findings."""

from __future__ import annotations

from manualbp.parity.diagnosis.diagnose import diagnose
from manualbp.parity.diagnosis.further import diagnose_further
from manualbp.parity.diagnosis.gather import gather
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.in_situations import judge_situations, layout_at_fault
from manualbp.parity.judge.power import measure_power, pooled
from manualbp.parity.power_record import PowerReport
from manualbp.parity.record import DIFFER, NOT_JUDGED, Finding, Situation


class Found:
    """What the checks have shown so far.

    Power is measured again at the next seed as long as it does not suffice. The situations are
    those of the first seed. The findings are of the first check that differs.
    """

    def __init__(self, with_power: bool, with_situations: bool) -> None:
        self._with_power, self._with_situations = with_power, with_situations
        self.power: PowerReport | None = None
        self.situations: tuple[Situation, ...] = ()
        self.findings: tuple[Finding, ...] = ()

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Those of the situations come last."""
        failed = (s for s in self.situations if s.verdict == DIFFER)
        return (*self.findings, *map(_finding, failed))

    def take(self, comparison: Comparison) -> None:
        """Look into one more check."""
        if comparison.kind != "backward":
            self.findings = self.findings or diagnose_further(comparison)
            return
        ran = bool(comparison.ours.tensors)  # else there is nothing to plant faults into
        if self._with_power and ran and (self.power is None or self.power.missing):
            again = measure_power(comparison)
            self.power = again if self.power is None else pooled(self.power, again)
        if self._with_situations and comparison.agrees:
            self.situations = judge_situations(comparison)
        self._with_situations = False  # of the first seed alone
        if not comparison.agrees and all(f.kind == NOT_JUDGED for f in self.findings):
            laid = layout_at_fault(comparison) if ran else None
            self.findings = (_finding(laid),) if laid else diagnose(gather(comparison))


def _finding(situation: Situation) -> Finding:
    return Finding(
        situation.tensor or situation.name, situation.name, situation.words, None,
        situation.next_step,
    )  # fmt: skip
