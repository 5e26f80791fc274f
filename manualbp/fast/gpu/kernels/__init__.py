"""The equations as Triton kernels, for GPUs: the extra ``triton``. Not yet measured on a GPU.

In fast mode choice.py has the rule where they run and where ATen's routines do. Users call nothing
here. Triton
is imported when the first tensor comes that its kernels could take. Without Triton, ATen's routines
run. The kernels take float32 (IEEE or TF32, by PyTorch's own flags), float16 and bfloat16, on GPUs
of compute capability 8.0 and up. With TRITON_INTERPRET=1 in the environment they are interpreted on
CPU tensors instead, slowly, for tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from manualbp.autograd.torch_internals import dispatch_modes

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LEAST_TRITON = (3, 4)  # it takes tuples as arguments of kernels
LEAST_CAPABILITY = (8, 0)  # it has bfloat16 and TF32 in tensor cores
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_tried: set[torch.device] = set()


def load() -> Any:
    """The module of the operators, which also has ``functions.code`` and ``errors.code``.

    Raises:
        ImportError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise ImportError(
            "manualbp.fast.gpu.kernels needs Triton, which is not installed; "
            'in the clone: pip install -e ".[triton]"'
        )
    return importlib.import_module("manualbp.fast.gpu.kernels.operators")


def tf32() -> bool:
    """Whether PyTorch's flags ask for products of float32 in tensor cores, rounded to TF32."""
    matmul = torch.backends.cuda.matmul
    found = getattr(matmul, "fp32_precision", None)  # since torch 2.9
    return matmul.allow_tf32 if found is None else found == "tf32"


def takes(x: Any) -> bool:
    """Whether kernels run on x's device and dtype, while no mode watches operators."""
    if type(x) not in (Tensor, torch.nn.Parameter) or x.dtype not in DTYPES:
        return False
    if x.is_cuda == _INTERPRETED or not (x.is_cuda or x.device.type == "cpu"):
        return False
    if dispatch_modes():  # they know only PyTorch's own operators
        return False
    if x.device not in _tried:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return False  # a try would end the capture
        _tried.add(x.device)
    return _run(x.device)


def warn(what: str, error: Exception) -> None:
    """Warn in one line: what went wrong, and what runs instead."""
    reason = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])
    warnings.warn(f"{what}: {reason}; ATen's routines are used instead", stacklevel=3)


@lru_cache
def _run(device: torch.device) -> bool:
    """Whether the kernels can run there, and compute what they should."""
    if importlib.util.find_spec("triton") is None or torch.version.hip is not None:
        return False
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    try:
        # Asked of the module: Triton's distributions have several names.
        version = importlib.import_module("triton").__version__
        if tuple(map(int, version.split(".")[:2])) < LEAST_TRITON:
            return False
        h = torch.ones(2, 3, dtype=torch.float32, device=device)
        a, _ = load().activated_linear(h, h, None, "relu", 0.0, 0.0, False)
        return bool((a == 3).all())
    except Exception as error:  # compilers, assemblers and drivers have no common class
        warn(f"Triton's kernels do not run on {device}", error)
        return False
