"""ONNX: trained by hand, exported by torch.onnx with any batch size, run by onnxruntime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import manualbp

pytestmark = [
    pytest.mark.clients,
    # The exporter's own: it asks for a class of torch's by its old name.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]

STEPS = 20


def trained(by_hand: bool) -> nn.Sequential:
    torch.manual_seed(0)
    kind = manualbp.Sequential if by_hand else nn.Sequential
    model = kind(
        nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 16), nn.SiLU(),
        nn.Linear(16, 3), nn.Softmax(-1),
    )  # fmt: skip
    x, y = torch.randn(32, 6), torch.rand(32, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model.eval()


def exported(model: nn.Sequential, path: Path) -> onnxruntime.InferenceSession:
    """The model as onnxruntime reads it back from a file."""
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model, (torch.randn(2, 6),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def outputs(session: onnxruntime.InferenceSession) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    (name,) = (i.name for i in session.get_inputs())
    batches = [generator.standard_normal((n, 6), dtype=np.float32) for n in (1, 2, 7, 64)]
    return [batch for x in batches for batch in session.run(None, {name: x})]


def test_same_export(calls: Counter[str], tmp_path: Path) -> None:
    """Bit-exact between the two exports."""
    theirs = outputs(exported(trained(by_hand=False), tmp_path / "theirs.onnx"))
    assert not calls
    ours = outputs(exported(trained(by_hand=True), tmp_path / "ours.onnx"))
    assert calls["Chain"] >= STEPS
    assert [o.shape for o in ours] == [(1, 3), (2, 3), (7, 3), (64, 3)]
    for a, b in zip(ours, theirs, strict=True):
        assert a.tobytes() == b.tobytes()


def test_export_computes_the_model(tmp_path: Path) -> None:
    """fp32, 1e-5 of probabilities: onnxruntime has its own kernels; three layers of width 16."""
    model = trained(by_hand=True)
    session = exported(model, tmp_path / "ours.onnx")
    x = torch.randn(7, 6)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught(tmp_path: Path) -> None:
    theirs = outputs(exported(trained(by_hand=False), tmp_path / "theirs.onnx"))
    ours = outputs(exported(trained(by_hand=True), tmp_path / "ours.onnx"))
    assert any(a.tobytes() != b.tobytes() for a, b in zip(ours, theirs, strict=True))
