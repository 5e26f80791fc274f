"""A comparison of trainings on disk, to go on where it stopped, to the same bits.

The file holds what the call was (``fingerprint``), the report so far, and the state of the training
that is under way. Whatever stops the process, the file is the old one or the new one, never half of
one. Its first line says what it is, its second is the SHA-256 of the rest.
"""

from __future__ import annotations

import hashlib
import io
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manualbp.parity import files
from manualbp.parity.arms.batches import tensor_hash
from manualbp.parity.power_record import Planted, PowerReport
from manualbp.parity.record import Finding
from manualbp.parity.training_record import Curve, First, Histogram, TrainingReport, Trajectory
from manualbp.parity.trajectories.plan import Plan

FORMAT = b"manualbp checkpoint 3\n"
# What the file may hold besides tensors and plain Python: it is data, it runs no code when read.
_RECORDS = [
    TrainingReport, Trajectory, Curve, First, Histogram, Finding, PowerReport, Planted,
]  # fmt: skip
Saved = tuple[TrainingReport, dict[str, Any] | None]


class Checkpoint:
    """The file of one call.

    Args:
        path: the file; its folder must be there.
        fingerprint: what the call is, in words; another one is refused.
        every: steps between two writes while a training is under way.
        seconds: after which it is written in any case, at the end of a step.

    Raises:
        FileNotFoundError: the folder is not there.
        ValueError: it is a folder or a pipe.
    """

    def __init__(
        self, path: files.PathLike, fingerprint: dict[str, str], every: int, seconds: float
    ) -> None:
        self.path, self._fingerprint = Path(path), fingerprint
        self._every, self._seconds, self._written = every, seconds, time.monotonic()
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"expected a folder to write the checkpoint to, got {self.path.parent}, "
                "which is not there; make it first"
            )
        if self.path.exists() and not self.path.is_file():
            raise ValueError(
                f"expected a file for the checkpoint, got {self.path}, which is a folder, a pipe "
                "or a device; name another"
            )

    def due(self, steps: int) -> bool:
        """Whether to write after so many steps. Time decides nothing else."""
        late = time.monotonic() - self._written >= self._seconds
        return late or steps % self._every == 0

    def read(self, plan: Plan) -> Saved | None:
        """The report so far and the state of a training, None between two; None without a file.

        Raises:
            ValueError: it is no checkpoint, damaged, or one of another call; the message says
                what differs.
            OSError: it cannot be read.
        """
        if not self.path.exists():
            return None
        theirs, saved = self._content(self.path.read_bytes())
        ours = self._fingerprint
        for what in {**theirs, **ours}:
            if theirs.get(what) != ours.get(what):
                raise ValueError(
                    f"expected the call that {self.path} was written by, got another {what}: "
                    f"{ours.get(what)} here, {theirs.get(what)} there; "
                    "call it as before, or delete the file to start anew"
                )
        try:
            fits = _is_of(plan, *saved)
        except Exception as error:  # fields are whatever the file says
            raise self.refused(f"{type(error).__name__} in its report") from error
        if not fits:
            raise self.refused("its trainings are not those of this call")
        return saved

    def write(self, report: TrainingReport, training: dict[str, Any] | None) -> None:
        """Replace the file by what there is now.

        Raises:
            OSError: it cannot be written; the file before is still there.
        """
        content = {"fingerprint": self._fingerprint, "report": report, "training": training}
        body = io.BytesIO()
        torch.save(content, body)
        digest = _digest(body.getbuffer())

        def save(file: Any) -> None:
            file.write(FORMAT + digest)
            file.write(body.getbuffer())

        files.write(self.path, save)
        self._written = time.monotonic()

    def refused(self, why: str) -> ValueError:
        """What to raise where the file is of no use."""
        return ValueError(
            f"expected a checkpoint of compare_training in {self.path}, got a file that cannot "
            f"be read as one ({why}); delete it to start anew"
        )

    def _content(self, whole: bytes) -> tuple[dict[str, str], Saved]:
        """The fingerprint, and what was saved."""
        start = len(FORMAT)
        if whole[:start] != FORMAT:
            raise self.refused("it does not begin as one of this version does")
        digest, body = whole[start : start + 65], memoryview(whole)[start + 65 :]
        if digest != _digest(body):
            raise self.refused("its checksum differs: it is damaged or cut off")
        try:
            with torch.serialization.safe_globals(list(_RECORDS)):
                found = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            fingerprint, saved = found["fingerprint"], (found["report"], found["training"])
        except Exception as error:  # PyTorch's own words would advise to run it as a program
            raise self.refused(f"{type(error).__name__} in its contents") from error
        if not isinstance(fingerprint, dict) or not isinstance(saved[0], TrainingReport):
            raise self.refused("it holds no report")
        return fingerprint, saved


def module_hash(module: nn.Module) -> str:
    """Twelve digits for all parameters, buffers and modes of a module."""
    parts = [f"{n} {tensor_hash(t)}" for n, t in (*module.named_parameters(),
                                                 *module.named_buffers())]  # fmt: skip
    modes = "".join("t" if child.training else "e" for child in module.modules())
    return tensor_hash(torch.tensor(list("\n".join([*parts, modes]).encode())))[:12]


def _digest(body: memoryview) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n"


def _is_of(plan: Plan, report: TrainingReport, training: dict[str, Any] | None) -> bool:
    """Whether a report has this plan's trainings, in order, the last one under way or none."""
    planned = [
        (optimizer, str(dtype).removeprefix("torch."), seed, plan.steps)
        for optimizer, dtype, seed in product(plan.optimizers, plan.all_dtypes, plan.seeds)
    ]
    runs = report.runs
    for run in runs:
        curves, histograms = run.curves.values(), run.histograms.values()
        if not isinstance(run, Trajectory) or not all(isinstance(c, Curve) for c in curves):
            return False
        if not all(isinstance(h, Histogram) for h in histograms):
            return False
    found = [(run.optimizer, run.dtype, run.seed, run.planned) for run in runs]
    under_way = isinstance(training, dict) and bool(runs) and 0 < runs[-1].steps < plan.steps
    return found == planned[: len(found)] and (training is None or under_way)
