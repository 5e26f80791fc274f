"""What a library is built for: this PyTorch, this Python, these instructions, these sources."""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from manualbp.autograd.torch_internals import pybind11_names

SOURCES = Path(__file__).parent / "csrc"
OLDEST = (2, 7)  # PyTorch's, for compiled autograd's PackedArgs (csrc/exact/compiled.h)

# What the compiler is told, and at::vec::Vectorized with it, for the instructions of PyTorch.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "DEFAULT": (),
}


class Target(NamedTuple):
    """One library; its file is found by this name alone, so that a wrong one is never loaded."""

    torch: str  # 2.13.0+cpu
    python: str  # cp311
    instructions: str  # AVX512
    sources: str  # of the files in csrc, of the flags and of PyTorch's commit

    @property
    def folder(self) -> str:
        """torch-2.13.0+cpu."""
        return f"torch-{self.torch}"

    @property
    def stem(self) -> str:
        """cp311-avx512-0123456789ab: a library's file without its suffix."""
        return f"{self.python}-{self.instructions.lower()}-{self.sources}"

    @property
    def words(self) -> str:
        """As people say it."""
        return f"torch {self.torch}, {self.python}, {self.instructions}"

    @property
    def too_old(self) -> str:
        """Why this PyTorch cannot have a library, and what to do; empty where it can."""
        if tuple(int(number) for number in self.torch.split(".")[:2]) >= OLDEST:
            return ""
        needed = ".".join(map(str, OLDEST))
        return f"torch {self.torch} is too old, it needs {needed} or newer: pip install -U torch"


@lru_cache
def here() -> Target:
    """The library that this process can load."""
    kind = "cp" if sys.implementation.name == "cpython" else sys.implementation.name
    python = f"{kind}{sys.version_info[0]}{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
    return Target(str(torch.__version__), python, instructions(), _hash())


def instructions() -> str:
    """The instructions that PyTorch's own kernels use; ATEN_CPU_CAPABILITY lowers them."""
    found = torch.backends.cpu.get_cpu_capability()
    return found if found in INSTRUCTIONS else "DEFAULT"


def compile_flags() -> tuple[str, ...]:
    """For one file, but for the folders of the headers."""
    name = instructions()
    pybind11 = [f'-DPYBIND11_{key}="{value}"' for key, value in pybind11_names().items()]
    return (
        "-std=c++20", "-O3", "-fPIC", "-Wall", *INSTRUCTIONS[name],
        f"-DCPU_CAPABILITY_{name}", f"-DCPU_CAPABILITY={name}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        "-DTORCH_EXTENSION_NAME=manualbp_native", "-DTORCH_API_INCLUDE_EXTENSION_H",
        *(() if sys.platform == "darwin" else ("-fopenmp",)), *pybind11,
    )  # fmt: skip


def link_flags() -> tuple[str, ...]:
    """For the library, behind its objects. One OpenMP: PyTorch's libgomp is loaded already."""
    torch_lib = ("-lc10", "-ltorch_cpu", "-ltorch_python")
    if sys.platform == "darwin":
        return "-shared", "-undefined", "dynamic_lookup", *torch_lib
    return "-shared", "-fopenmp", *torch_lib


def _hash() -> str:
    """Twelve digits for all that a library depends on beside the names in its path."""
    abi = (sysconfig.get_config_var("SOABI"), platform.machine(), torch.version.git_version)
    seen = hashlib.sha256(repr((abi, compile_flags(), link_flags())).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in (".cpp", ".h"):
            seen.update(f"\0{path.relative_to(SOURCES)}\0".encode() + path.read_bytes())
    return seen.hexdigest()[:12]
