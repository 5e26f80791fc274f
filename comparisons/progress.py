"""Progress bars on the terminal's error stream; where that is no terminal, nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich import progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")


def track(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a bar while they are worked on."""
    return progress.track(items, what, console=Console(stderr=True), transient=True)


class TrainingProgress(progress.Progress):
    """A bar with the loss, steps per second and the time left."""

    def __init__(self, steps: int, shown: bool = True) -> None:
        super().__init__(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            _Speed(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._steps = self.add_task("training", total=steps, loss="-")

    def step(self, loss: float) -> None:
        """One step done."""
        self.update(self._steps, advance=1, loss=f"{loss:.4f}")


class _Speed(progress.ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "- steps/s")
