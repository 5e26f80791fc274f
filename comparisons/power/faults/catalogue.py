"""Every planted fault: its family, and the network and site that it is planted at."""

from __future__ import annotations

from comparisons.power.faults import layers
from comparisons.power.faults.attention import ATTENTION
from comparisons.power.faults.convolution import CONVOLUTION, SQUARE_CONVOLUTION
from comparisons.power.faults.fault import Fault

FAULTS = tuple(
    Fault(family, subject, site, name, wrong)
    for family, subject, site, bugs in (
        ("MLP", "MLP, tanh", "layer 1", layers.LINEAR),
        ("MLP", "MLP, ReLU", "layer 1", layers.RELU),
        ("MLP", "8 layers of sigmoid", "layer 0", layers.VANISHING),
        ("LayerNorm", "LayerNorm", "norm", layers.LAYER_NORM),
        ("attention", "attention", "attention", ATTENTION),
        ("convolution", "convolution", "grouped", CONVOLUTION),
        ("convolution", "convolution", "last", SQUARE_CONVOLUTION),
        ("Functions", "linear + GELU", "layer 0", layers.GELU),
        ("Functions", "cross entropy", "loss", layers.CROSS_ENTROPY),
        ("Functions", "RMSNorm", "norm", layers.RMS_NORM),
        ("Functions", "SwiGLU", "gate", layers.SWIGLU),
        ("Functions", "embedding", "embedding", layers.EMBEDDING),
        ("Functions", "cumulative sum", "sum", layers.CUMULATIVE_SUM),
    )
    for name, wrong in bugs
)
FAMILIES = tuple(dict.fromkeys(fault.family for fault in FAULTS))
