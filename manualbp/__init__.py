"""manualbp: backpropagation written by hand, for PyTorch.

The data flow, in order:

    activations   a = f(z) and f'
    setting       a choice for the process, for a while or for a model
    routines      whose matrix products there are, and which are faster here
    gemm          exact or fast: the products of a linear layer
    layers        a = f(h; theta) and its backward: Linear, activation, dropout, normalizations
    backprop      the recursion over the layers, down for the gradients, up for the second order
    function      the recursion as one torch.autograd.Function
    steps         the layers of a pass over tiles
    tiles         the recursion over tiles of rows
    recompute     what a chain keeps for backward: its activations, or x alone
    run           which modules make a chain, and the call that runs it
    sequential    Sequential, Residual, MLP: drop-in for nn.Sequential
    fused         FusedLoss: forward, loss and backward in one pass over tiles of rows
    gated         GatedMLP: the transformers' gated MLP
    convert       convert(model), explain(model): the same for models that are already there
    losses        C(o, y) and dC/do
    criterion     MSELoss, CrossEntropyLoss, ...: drop-in for torch.nn's losses
    descent       GradientDescent: w <- w - epsilon dC/dw

Beside it, independent of it: ``reference`` (the same equations node by node in NumPy) and
``parity`` (compares gradients and training of any two modules).
"""

from manualbp.conversion.convert import convert, explain
from manualbp.maths.descent import GradientDescent
from manualbp.modules.fused_loss import FusedLoss
from manualbp.modules.gated import GatedMLP
from manualbp.modules.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    SmoothL1Loss,
)
from manualbp.modules.sequential import MLP, Residual, Sequential
from manualbp.settings import set_memory, set_mode

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "FusedLoss",
    "GatedMLP",
    "GradientDescent",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "Residual",
    "Sequential",
    "SmoothL1Loss",
    "convert",
    "explain",
    "set_memory",
    "set_mode",
]
