"""The record of a run as TensorBoard event files: the one place that writes them.

    runs/NAME/<reference arm>   the two arms log the same tags, so their curves overlay
    runs/NAME/<candidate arm>
    runs/NAME/parity            max |candidate - reference| per step and tensor, and the verdict

Scalars are float32, what is read back is what was judged rounded once: TensorBoard's data server
shows no others (a float64 scalar is dropped without a word).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from manualbp.parity.side_by_side import ArmStep, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.utils.tensorboard import SummaryWriter

TRAIN = "train/{}"  # loss, accuracy: of each batch, before the update
VALIDATION = "validation/{}"  # the same on held-out data, after each epoch
LEARNING_RATE = "learning_rate"
GRADIENT_NORM = "gradient_norm/{}"  # per layer
GRADIENTS = "gradients/{}"  # histogram per tensor
WEIGHTS = "weights/{}"  # histogram per tensor
DIVERGENCE = "divergence/{}"
LOG_DIVERGENCE = "log10_divergence/{}"
VERDICT = "verdict"

PARITY = "parity"
# Where log10 of a divergence of 0 is drawn; whatever is not bit-identical is drawn above it.
BIT_IDENTICAL, SMALLEST = -40.0, -38.0


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
    """The event files of one run; a context manager, closed on the way out whatever happens.

    Args:
        log_dir: parent folder, made where it is missing.
        name: the run's folder inside it; must not be there yet.
        folders: names of the run's parts, each an event file of its own.

    Raises:
        FileExistsError: ``log_dir/name`` is already there.
        PermissionError: ``log_dir`` cannot be written.
        ImportError: tensorboard is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str], name: str, folders: list[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "manualbp.parity.tensorboard needs tensorboard; "
                'install it with: pip install "manualbp[comparisons]"'
            ) from error
        self.path = new_path(log_dir, name)
        self.path.mkdir(parents=True)
        self._writers: dict[str, SummaryWriter] = {
            folder: SummaryWriter(str(self.path / folder), flush_secs=10) for folder in folders
        }

    def scalar(self, folder: str, tag: str, value: float, step: int) -> None:
        """One point of one curve."""
        self._writers[folder].add_scalar(tag, value, step, new_style=True)

    def text(self, folder: str, tag: str, markdown: str) -> None:
        """A page of Markdown."""
        self._writers[folder].add_text(tag, markdown)

    def image(self, folder: str, tag: str, pixels: NDArray[np.uint8]) -> None:
        """A picture: height, width, and red, green, blue."""
        self._writers[folder].add_image(tag, pixels, dataformats="HWC")

    def step(self, step: Step, candidate: str, reference: str) -> None:
        """Every number of one training step, under the names of the two arms."""
        for folder, arm in ((candidate, step.candidate), (reference, step.reference)):
            for tag, value in scalars(arm).items():
                self.scalar(folder, tag, value, step.number)
        for name, apart in step.divergence.items():
            self.scalar(PARITY, DIVERGENCE.format(name), apart, step.number)
            self.scalar(PARITY, LOG_DIVERGENCE.format(name), log_divergence(apart), step.number)

    def validation(self, folder: str, metrics: Mapping[str, float], step: int) -> None:
        """An arm's metrics on held-out data."""
        for name, value in metrics.items():
            self.scalar(folder, VALIDATION.format(name), value, step)

    def histograms(self, folder: str, module: nn.Module, step: int) -> None:
        """An arm's parameters and gradients as they are; one that is not finite is left out."""
        for name, parameter in module.named_parameters():
            for tag, values in ((WEIGHTS, parameter), (GRADIENTS, parameter.grad)):
                if values is not None and values.isfinite().all():
                    numbers = values.detach().double()
                    self._writers[folder].add_histogram(tag.format(name), numbers, step)

    def close(self) -> None:
        """Write out what is waiting and close the files."""
        for writer in self._writers.values():
            writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def scalars(arm: ArmStep) -> dict[str, float]:
    """One arm's numbers of one step by tag."""
    found = {TRAIN.format(name): value for name, value in arm.metrics.items()}
    found[LEARNING_RATE] = arm.learning_rate
    return found | {GRADIENT_NORM.format(k): norm for k, norm in arm.gradient_norms.items()}


def log_divergence(apart: float) -> float:
    """log10 of a divergence, at least ``SMALLEST``; ``BIT_IDENTICAL`` for 0."""
    return max(math.log10(apart), SMALLEST) if apart > 0 else BIT_IDENTICAL
