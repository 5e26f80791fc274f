"""A wheel contains the C++ library where there is a compiler and PyTorch; else it is pure Python.

All else is in pyproject.toml. ``pip wheel . --no-build-isolation --no-deps`` builds for the
PyTorch of this environment. With build isolation there is none, and so no library.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
BUILT = Path("manualbp/fast/native/built")


class Wheel(bdist_wheel):
    """Builds the library first: whether it is there decides which platforms the wheel is for."""

    def run(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if _built(Path(folder)):
                self.root_is_pure = False
                self.distribution.has_ext_modules = lambda: True
                self.distribution.native_library = folder
            super().run()


class Package(build_py):
    """Puts the library into the package."""

    def run(self) -> None:
        super().run()
        folder = getattr(self.distribution, "native_library", None)
        if not self.editable_mode:
            target = Path(self.build_lib) / BUILT
            shutil.rmtree(target, ignore_errors=True)  # of an earlier wheel
            if folder:
                shutil.copytree(folder, target)


def _built(folder: Path) -> bool:
    """Whether the library could be built into the folder."""
    try:
        from manualbp.fast.native import BuildError, build
    except ImportError as error:
        print(f"a wheel without the native step: {error}")
        return False
    try:
        print(f"native step: {build(folder)}")
    except BuildError as error:
        print(f"a wheel without the native step: {error}")
        return False
    return True


setup(cmdclass={"bdist_wheel": Wheel, "build_py": Package})
