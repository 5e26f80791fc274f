"""What planted faults showed about a comparison, as data; judge/power.py fills it in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """A standard fault put into one gradient of the candidate, and whether the rule saw it."""

    fault: str
    tensor: str
    caught: bool


@dataclass(frozen=True)
class PowerReport:
    """What the rule can see on this very pair.

    ``smallest`` is the smallest relative error g * (1 + d) that is seen, per gradient; infinity
    where none is. ``missing`` says why "agree" is refused; empty where power suffices.
    """

    planted: tuple[Planted, ...]
    smallest: dict[str, float]
    missing: tuple[str, ...]

    @property
    def caught(self) -> tuple[str, ...]:
        """The faults that were seen wherever they were planted."""
        missed = {p.fault for p in self.planted if not p.caught}
        return tuple(fault for fault in self.faults if fault not in missed)

    @property
    def faults(self) -> tuple[str, ...]:
        """Every fault that could be planted, each once."""
        return tuple(dict.fromkeys(p.fault for p in self.planted))
