"""Progress bars on the terminal's error stream; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from manualbp.parity.reports.terminal import width_of
from manualbp.parity.versions import INSTALL

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def track(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a bar while they are worked on.

    Raises:
        ImportError: rich is not installed.
    """
    progress, console = _rich()
    found: Iterable[T] = progress.track(
        items, what, console=console, transient=True, disable=not console.is_terminal
    )
    return found


@contextmanager
def checking(checks: int, shown: bool = True) -> Iterator[Callable[[object], None]]:
    """A bar for a comparison of gradients; what it yields is called when a check is done.

    Raises:
        ImportError: rich is not installed.
    """
    progress, console = _rich()
    columns = (
        progress.SpinnerColumn(), progress.TextColumn("{task.description}"),
        progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=console, transient=True, disable=not shown) as bars:
        task = bars.add_task("checks", total=checks)
        yield lambda _check: bars.advance(task)


class TrainingProgress:
    """A bar with the training that runs, its loss, steps per second and the time left.

    Args:
        steps: of all trainings together.
        shown: False draws nothing.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self, steps: int, shown: bool = True) -> None:
        progress, console = _rich()
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("loss {task.fields[loss]}"),
            progress.TextColumn("{task.fields[speed]} steps/s"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),  # elsewhere it would leave an empty line
        )
        self._steps = self._bars.add_task("training", total=steps, loss="-", speed="-")

    def step(self, loss: float, training: str | None = None) -> None:
        """One step is done; ``training`` names the one it belongs to, where there are several."""
        speed = self._bars.tasks[self._steps].speed
        self._bars.update(
            self._steps, advance=1, description=training, loss=f"{loss:.4g}",
            speed=f"{speed:.0f}" if speed else "-",
        )  # fmt: skip

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.stop()


def _rich() -> tuple[ModuleType, Console]:
    try:
        from rich import progress
        from rich.console import Console
    except ImportError as error:
        raise ImportError(f"progress bars need rich; {INSTALL}") from error
    console = Console(stderr=True)
    return progress, Console(stderr=True, width=width_of(console))
