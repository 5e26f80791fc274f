"""A comparison of trainings on disk, to go on where it stopped, to the same bits.

The file holds what the call was (``fingerprint``), the report so far, and the state of the training
that is under way. Whatever stops the process, the file is the old one or the new one, never half of
one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from manualbp.parity import files
from manualbp.parity.arms.batches import tensor_hash
from manualbp.parity.record import Finding, Planted, PowerReport
from manualbp.parity.training_record import Curve, First, Histogram, TrainingReport, Trajectory

FORMAT = 2
# What the file may hold besides tensors and plain Python: it is data, it runs no code when read.
_RECORDS = [
    TrainingReport, Trajectory, Curve, First, Histogram, Finding, PowerReport, Planted,
]  # fmt: skip


class Checkpoint:
    """The file of one call.

    Args:
        path: the file; its folder must be there.
        fingerprint: what the call is, in words; another one is refused.
        every: steps between two writes while a training is under way.

    Raises:
        FileNotFoundError: the folder is not there.
    """

    def __init__(self, path: files.PathLike, fingerprint: dict[str, str], every: int) -> None:
        self.path, self._fingerprint, self.every = Path(path), fingerprint, every
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"expected a folder to write the checkpoint to, got {self.path.parent}, "
                "which is not there; make it first"
            )

    def read(self) -> tuple[TrainingReport, dict[str, Any] | None] | None:
        """The report so far and the state of a training, None between two; None without a file.

        Raises:
            ValueError: it is no checkpoint, or one of another call; the message says what differs.
        """
        if not self.path.exists():
            return None
        try:
            with torch.serialization.safe_globals(list(_RECORDS)):
                found = torch.load(self.path, map_location="cpu", weights_only=True)
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']}, expected {FORMAT}")
            theirs, saved = found["fingerprint"], (found["report"], found["training"])
        except Exception as error:
            raise ValueError(
                f"expected a checkpoint of compare_training in {self.path}, got a file that cannot "
                f"be read as one ({' '.join(str(error).split())[:200]}); delete it to start anew"
            ) from error
        ours = self._fingerprint
        for what in {**theirs, **ours}:
            if theirs.get(what) != ours.get(what):
                raise ValueError(
                    f"expected the call that {self.path} was written by, got another {what}: "
                    f"{ours.get(what)} here, {theirs.get(what)} there; "
                    "call it as before, or delete the file to start anew"
                )
        return saved

    def write(self, report: TrainingReport, training: dict[str, Any] | None) -> None:
        """Replace the file by what there is now."""
        content = {
            "format": FORMAT, "fingerprint": self._fingerprint, "report": report,
            "training": training,
        }  # fmt: skip
        files.write(self.path, lambda file: torch.save(content, file))


def module_hash(module: nn.Module) -> str:
    """Twelve digits for all parameters, buffers and modes of a module."""
    parts = [f"{n} {tensor_hash(t)}" for n, t in (*module.named_parameters(),
                                                 *module.named_buffers())]  # fmt: skip
    modes = "".join("t" if child.training else "e" for child in module.modules())
    return tensor_hash(torch.tensor(list("\n".join([*parts, modes]).encode())))[:12]
