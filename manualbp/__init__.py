"""manualbp: backpropagation written by hand, for PyTorch.

The data flow, in order:

    activations   a = f(z) and f'
    backprop      z = h W^T + b, then the recursion delta_l = (delta_{l+1} W_{l+1}) * f'(z_l)
    function      the recursion as one torch.autograd.Function
    sequential    Sequential, MLP, convert: drop-in for nn.Sequential
    losses        C(o, y) and dC/do
    criterion     MSELoss, CrossEntropyLoss, ...: drop-in for torch.nn's losses
    descent       GradientDescent: w <- w - epsilon dC/dw

Beside it, independent of it: ``reference`` (the same equations node by node in NumPy) and
``parity`` (compares gradients and training of any two modules).
"""

from manualbp.criterion import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    SmoothL1Loss,
)
from manualbp.descent import GradientDescent
from manualbp.sequential import MLP, Sequential, convert

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "GradientDescent",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "Sequential",
    "SmoothL1Loss",
    "convert",
]
