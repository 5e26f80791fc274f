"""manualbp: backpropagation written by hand, for PyTorch.

    settings     set_mode, set_memory: a choice for the process, a while or a model
    maths        the equations as plain functions on tensors
    reference    the same equations in NumPy, node by node: the independent oracle
    autograd     the maths as torch.autograd.Functions
    fast         other ways to the same gradients, behind one door
    modules      what users put into their programs
    conversion   convert, explain, derivatives: the same for models that are already there
    parity       the harness: compares gradients and training of any two modules

Each room imports only those above it. ``reference`` and ``parity`` import nothing of the others.
"""

from manualbp.conversion.convert import convert
from manualbp.conversion.derivatives import derivatives
from manualbp.conversion.explain import explain
from manualbp.modules.cross_entropy import CrossEntropyLoss
from manualbp.modules.descent import GradientDescent
from manualbp.modules.fused_loss import FusedLoss
from manualbp.modules.gated import GatedMLP
from manualbp.modules.losses import (
    BCEWithLogitsLoss,
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
    "derivatives",
    "explain",
    "set_memory",
    "set_mode",
]
