"""Kernels compiled for a GPU that is not there: every launch is written down and built to machine
code by Triton's own compiler and assembler, as `python tests/fast/gpu/kernels/compiled.py
CAPABILITY` in a process of its own, since kernels are either interpreted or compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from manualbp.fast.gpu.kernels import chain, errors, functions, linear
from manualbp.maths import losses
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.cross_entropy import CrossEntropy

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KINDS = {torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16",
         torch.bfloat16: "bf16", torch.int64: "i64"}  # fmt: skip
PADDED = [["tt.divisibility", 16]]  # as PyTorch's allocator aligns


class Recorder:
    """Stands for a kernel; a launch is compiled instead of run."""

    def __init__(self, kernel: Any, capability: int, found: list[dict[str, Any]]) -> None:
        self.kernel, self.capability, self.found = kernel, capability, found

    def __getitem__(self, grid: Any) -> Any:
        return self

    def __call__(self, *args: Any, num_warps: int) -> None:
        names = self.kernel.arg_names
        signature: dict[str, Any] = {}
        constants: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], Any] = {}
        for i, (parameter, value) in enumerate(zip(self.kernel.params, args, strict=True)):
            if parameter.is_constexpr:
                signature[names[i]], constants[(i,)] = "constexpr", value
            elif isinstance(value, tuple):
                signature[names[i]] = tuple(_type(v) for v in value)
                attributes |= {(i, j): PADDED for j in range(len(value))}
            elif isinstance(value, int) and value == 1:  # Triton makes constants of ones
                signature[names[i]], constants[(i,)] = "constexpr", 1
            else:
                signature[names[i]] = _type(value)
                if isinstance(value, torch.Tensor) or value % 16 == 0:
                    attributes[(i,)] = PADDED
        source = ASTSource(self.kernel, signature, constants, attributes)
        target = GPUTarget("cuda", self.capability, 32)
        built = triton.compile(source, target=target, options={"num_warps": num_warps})
        self.found.append({"kernel": self.kernel.__name__, "shared": built.metadata.shared,
                           **_resources(built.asm["cubin"])})  # fmt: skip


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{KINDS[value.dtype]}"
    return "i32" if abs(value) < 2**31 else "i64"


def _resources(binary: bytes) -> dict[str, int]:
    """Registers, and bytes that each thread spills."""
    path = Path("kernel.cubin")
    path.write_bytes(binary)
    done = subprocess.run([BINARIES / "cuobjdump", "--dump-resource-usage", path],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return {k.lower(): int(v) for k, v in re.findall(r"(REG|STACK):(\d+)", done.stdout)}


@contextmanager
def recorded(capability: int) -> Iterator[list[dict[str, Any]]]:
    """Inside, launches of all kernels are compiled for this compute capability."""
    found: list[dict[str, Any]] = []
    kernels = [(linear, "_forward"), (linear, "_input_gradient"), (chain, "_chain")]
    for module, name in kernels:
        setattr(module, name, Recorder(getattr(module, name), capability, found))
        module.on = lambda x: nullcontext()
    yield found
    for module, name in kernels:
        setattr(module, name, getattr(module, name).kernel)


def layers(rows: int, inputs: int, outputs: int, name: str, dtype: torch.dtype) -> None:
    """One launch of each of the kernels of a layer."""
    f = ACTIVATIONS[name]
    h, w = torch.empty(rows, inputs, dtype=dtype), torch.empty(outputs, inputs, dtype=dtype)
    delta, b = torch.empty(rows, outputs, dtype=dtype), torch.empty(outputs, dtype=dtype)
    linear.forward(h, w, b, functions.code(f), f.needs == "z")
    linear.input_gradient(delta, w, h, functions.code(f), True)


def net(
    rows: int, widths: Sequence[int], name: str, loss: losses.Loss, dtype: torch.dtype,
    need_x: bool = False,
) -> None:  # fmt: skip
    """One launch of the kernel of a chain."""
    f, count = ACTIVATIONS[name], len(widths) - 1
    ws = [torch.empty(o, i, dtype=dtype) for i, o in pairwise(widths)]
    bs = [torch.empty(len(w), dtype=dtype) for w in ws]
    x = torch.empty(rows, widths[0], dtype=dtype)
    classes = isinstance(loss, CrossEntropy)
    y = torch.zeros(rows, dtype=torch.int64) if classes else x.new_empty(rows, widths[-1])
    codes = [functions.code(f)] * (count - 1) + [functions.code(None)]
    from_z = [f.needs == "z"] * (count - 1) + [False]
    chain.step(x, y, ws, bs, codes, from_z, errors.code(loss), need_x, [True] * count,
               [True] * count)  # fmt: skip


def main(capability: int, names: Sequence[str]) -> None:
    """Everything for one GPU, with these activations; a line of JSON for each launch."""
    half, single = torch.bfloat16, torch.float32
    with recorded(capability) as found:
        for name in names:
            layers(1000, 64, 100, name, single)
            net(100, (3, 20, 20, 2), name, losses.Huber(), single)
        for dtype in (single, half, torch.float16):
            layers(4096, 128, 128, "gelu", dtype)
            net(4096, (64, 128, 128, 10), "gelu", CrossEntropy(label_smoothing=0.1), dtype, True)
        for loss in (losses.L1(), losses.SmoothL1(), losses.BCEWithLogits()):
            net(100, (3, 20, 2), "tanh", loss, single)
        net(4096, (64, 128, 128, 128, 1), "relu", losses.MSE(), single)
        torch.backends.cuda.matmul.allow_tf32 = True
        layers(4096, 128, 128, "relu", single)
        net(4096, (64, 128, 128, 128, 1), "relu", losses.MSE(), single)
        net(4096, (2, 128, 128, 128, 128, 1), "tanh", losses.MSE(), single)
    for launch in found:
        print(json.dumps(launch))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] or list(ACTIVATIONS))
