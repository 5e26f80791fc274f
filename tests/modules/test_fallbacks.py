"""What a Sequential cannot do by hand, nn.Sequential's own forward does: its bits, its errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import manualbp
from tests.helpers import autograd_twin, differing, gradients, hand_twin
from tests.modules.test_sequential import twins


def test_other_tensors_fall_back() -> None:
    class Mine(Tensor):
        pass

    model, twin, x = twins()
    assert torch.equal(model(x.as_subclass(Mine)), twin(x.as_subclass(Mine)))
    assert model.to("meta")(x.to("meta")).shape == (4, 3)
    complex_model = manualbp.MLP((5, 3)).to(torch.complex64)
    assert complex_model(x.to(torch.complex64)).dtype is torch.complex64


@pytest.mark.parametrize(
    "x", [torch.randn(4, 6), torch.randn(4, 5).double(), torch.tensor(1.0), [1.0]],
    ids=["width", "dtype", "scalar", "list"],
)  # fmt: skip
def test_bad_input_raises_as_nn_sequential(x: object) -> None:
    model = manualbp.MLP((5, 8, 3))
    with pytest.raises(Exception) as theirs:
        autograd_twin(model)(x)
    with pytest.raises(type(theirs.value)) as ours:
        model(x)
    assert str(ours.value) == str(theirs.value)


def test_inference_tensors() -> None:
    """Bit-exact, as nn.Sequential runs."""
    model, twin, x = twins()
    with torch.inference_mode():
        frozen = nn.Linear(5, 5, dtype=torch.float64)
        with torch.enable_grad():
            assert torch.equal(model(x), twin(x))
    outputs = [nn.Sequential.forward(kind(frozen, *net), x) for kind, net in
               ((manualbp.Sequential, model), (nn.Sequential, twin))]  # fmt: skip
    assert torch.equal(*outputs)
    assert torch.equal(manualbp.Sequential(frozen, *model)(x), nn.Sequential(frozen, *twin)(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors() -> None:
    model, twin, x = twins()
    rows = torch.nested.nested_tensor([x[:3], x[3:]])
    for ours, theirs in zip(model(rows).unbind(), twin(rows).unbind(), strict=True):
        assert torch.equal(ours, theirs)


class Scaled(nn.Linear):
    """A subclass computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 3


def test_subclasses_are_called() -> None:
    torch.manual_seed(0)
    twin = nn.Sequential(Scaled(5, 8), nn.Tanh(), nn.Linear(8, 3))
    model, x = hand_twin(twin), torch.randn(4, 5, requires_grad=True)
    assert differing(gradients(model, x), gradients(twin, x)) == []
