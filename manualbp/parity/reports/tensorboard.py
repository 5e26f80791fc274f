"""The record of a run as TensorBoard event files: the one place that writes them.

``log_report`` writes what compare_gradients and compare_training found:

    runs/NAME                          the verdict in words, pictures, the layout of custom charts
    runs/NAME/TRAINING/candidate       the two arms log the same tags, so their curves overlay
    runs/NAME/TRAINING/reference
    runs/NAME/TRAINING/parity          drift, its limits, forced; heat maps
    runs/NAME/TRAINING/results         a row of HParams

``RunLog`` writes a run while it goes on:

    runs/NAME/<reference arm>, runs/NAME/<candidate arm>
    runs/NAME/parity                   max |candidate - reference| per step and tensor; the layout
    runs/NAME/results                  a row of HParams

Scalars are float32, rounded once: TensorBoard's data server drops a float64 scalar without a
word.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from manualbp.parity.reports import charts
from manualbp.parity.reports.charts import CANDIDATE, PARITY, REFERENCE, RESULTS, WHOLE
from manualbp.parity.reports.page import markdown_report
from manualbp.parity.reports.pictures import pictures
from manualbp.parity.step_record import Step
from manualbp.parity.training_record import Histogram, Report, TrainingReport, Trajectory
from manualbp.parity.versions import INSTALL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.utils.tensorboard import SummaryWriter


def log_report(report: Report, log_dir: str | os.PathLike[str], name: str) -> Path:
    """Write a report for TensorBoard and return its folder, ``log_dir/name``.

    Where it fails, nothing is left there.

    Raises:
        FileExistsError: ``log_dir/name`` is already there.
        TypeError: it is no report.
        ValueError: two trainings have the same name.
        PermissionError: ``log_dir`` cannot be written.
        ImportError: tensorboard or matplotlib is not installed.
    """
    words, drawn = markdown_report(report), pictures(report)  # before anything is written
    runs = report.runs if isinstance(report, TrainingReport) else []
    names = [charts.folder(run) for run in runs]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise ValueError(
            f"expected a name of its own for each training, got {twice!r} twice; "
            "give each optimizer a name of its own"
        )
    arms = [f"{run}/{arm}" for run in names for arm in (CANDIDATE, REFERENCE, PARITY, RESULTS)]
    with RunLog(log_dir, name, [WHOLE, *arms]) as log:
        log.text(WHOLE, charts.VERDICT, words)
        for folder, tag, pixels in drawn:
            log.image(folder, tag, pixels)
        if isinstance(report, TrainingReport):
            log.layout(WHOLE, charts.layout(report))
        for run in runs:
            log.training(run)
    return log.path


def new_path(log_dir: str | os.PathLike[str], name: str) -> Path:
    """Where a run goes; nothing is made.

    Raises:
        FileExistsError: it is already there.
    """
    path = Path(log_dir) / name
    if path.exists():
        raise FileExistsError(
            f"expected a new run name, got {name!r}, which is already in {log_dir}; "
            "choose another or delete that folder"
        )
    return path


class RunLog:
    """The event files of one run; a context manager. After an error or a signal nothing is left.

    Args:
        log_dir: parent folder, made where it is missing.
        name: the run's folder in it; it must not be there yet.
        folders: names of the run's parts, each an event file of its own.

    Raises:
        FileExistsError: ``log_dir/name`` is already there.
        PermissionError: ``log_dir`` cannot be written.
        OSError: there is no room; also from every later call, as writing goes on beside it.
        ImportError: tensorboard is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str], name: str, folders: list[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"manualbp.parity.reports.tensorboard needs tensorboard; {INSTALL}"
            ) from error
        self.path = new_path(log_dir, name)
        self.path.mkdir(parents=True)
        self._writers: dict[str, SummaryWriter] = {}
        self._hook, threading.excepthook = threading.excepthook, self._on_thread_error
        try:
            for folder in folders:
                self._writers[folder] = SummaryWriter(str(self.path / folder), flush_secs=10)
        except BaseException:
            self._discard()
            raise

    def scalar(self, folder: str, tag: str, value: float, step: int) -> None:
        """One point of one curve."""
        self._writers[folder].add_scalar(tag, value, step, new_style=True)

    def text(self, folder: str, tag: str, markdown: str) -> None:
        """A page of Markdown."""
        self._writers[folder].add_text(tag, markdown)

    def image(self, folder: str, tag: str, pixels: NDArray[np.uint8]) -> None:
        """A picture: height, width, and red, green, blue."""
        self._writers[folder].add_image(tag, pixels, dataformats="HWC")

    def histogram(self, folder: str, tag: str, found: Histogram, step: int) -> None:
        """Counts that were taken before; sums are those of the middles of the bins."""
        counts, edges = np.array(found.counts, float), np.array(found.edges, float)
        middles = (edges[1:] + edges[:-1]) / 2
        self._writers[folder].add_histogram_raw(
            tag, min=edges[0], max=edges[-1], num=counts.sum(), sum=counts @ middles,
            sum_squares=counts @ middles**2, bucket_limits=edges.tolist(),
            bucket_counts=[0.0, *counts.tolist()], global_step=step,  # none below the first edge
        )  # fmt: skip

    def layout(self, folder: str, layout: charts.ChartLayout) -> None:
        """What the page of custom charts shows; at most once per folder."""
        self._writers[folder].add_custom_scalars(layout)

    def hparams(
        self, folder: str, settings: Mapping[str, str | float],
        results: Mapping[str, float | None], step: int,
    ) -> None:  # fmt: skip
        """A row of the table of hyperparameters: a finished session, in a folder of its own.

        A result of None is an empty cell. The folder does not say which columns there are:
        TensorBoard would take the first that does for runs of every kind. So it looks for itself,
        and every scalar of the folder is a column.
        """
        from torch.utils.tensorboard.summary import hparams

        writer: Any = self._writers[folder].file_writer
        _, *session = hparams(dict(settings), {})  # type: ignore[no-untyped-call]
        for summary in session:
            writer.add_summary(summary)
        for tag, value in results.items():
            if value is not None:
                self.scalar(folder, tag, value, step)

    def training(self, run: Trajectory) -> None:
        """One training of a TrainingReport, in the folders of its two arms and of parity."""
        folder = charts.folder(run)
        for arm, tag, points in charts.curves(run):
            for step, value in points.items():
                self.scalar(f"{folder}/{arm}", tag, value, step)
        for arm, tag, histogram in charts.histograms(run):
            self.histogram(f"{folder}/{arm}", tag, histogram, run.steps)
        self.hparams(f"{folder}/{RESULTS}", *charts.settings(run), run.steps)

    def step(self, step: Step, candidate: str, reference: str) -> None:
        """Every number of one training step, under the names of the two arms."""
        for folder, arm in ((candidate, step.candidate), (reference, step.reference)):
            for tag, value in charts.scalars(arm).items():
                self.scalar(folder, tag, value, step.number)
        equal = charts.share_of_equal(step.divergence.values())
        self.scalar(PARITY, charts.EQUAL, equal, step.number)
        for name, apart in step.divergence.items():
            if apart != 0:
                tag = charts.LOG_DIVERGENCE.format(name)
                self.scalar(PARITY, tag, charts.log10(apart), step.number)

    def validation(self, folder: str, metrics: Mapping[str, float], step: int) -> None:
        """An arm's metrics on held-out data."""
        for name, value in metrics.items():
            self.scalar(folder, charts.METRIC.format(name, charts.VALIDATION), value, step)

    def histograms(self, folder: str, module: nn.Module, step: int) -> None:
        """An arm's parameters and gradients as they are, without those that are not finite."""
        for name, parameter in module.named_parameters():
            for tag, values in ((charts.WEIGHTS, parameter), (charts.GRADIENTS, parameter.grad)):
                if values is not None and values.isfinite().all():
                    numbers = values.detach().double()
                    self._writers[folder].add_histogram(tag.format(name), numbers, step)

    def close(self) -> None:
        """Write what is waiting, and close the files."""
        for writer in self._writers.values():
            writer.close()
        threading.excepthook = self._hook

    def _on_thread_error(self, error: threading.ExceptHookArgs) -> None:
        """Says nothing of the threads that write: the next call raises what they ran into."""
        if not isinstance(error.exc_value, OSError):
            self._hook(error)

    def _discard(self) -> None:
        """Close the files as far as that can be done, and delete them."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.close()
        threading.excepthook = self._hook
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        try:
            if kind is None:
                self.close()
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            if kind is not None:
                self._discard()
