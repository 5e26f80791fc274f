"""A PyTorch that is too old for the library: one line says so, and nothing is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manualbp.__main__ import main
from manualbp.fast.native import compiling, loading
from manualbp.fast.native.target import here


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0+cu124", "1.13.1"])
def test_too_old(
    version: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In build, in status and in the warning of fast mode."""

    def never(*arguments: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(compiling, "_run", never)
    monkeypatch.setenv("MANUALBP_NATIVE_DIR", str(tmp_path / "libraries"))
    monkeypatch.delenv("MANUALBP_NATIVE", raising=False)
    for function in (loading._outcome, loading.warn_if_missing):
        monkeypatch.setattr(loading, function.__name__, loading.lru_cache(function.__wrapped__))
    for module in (loading, compiling):
        monkeypatch.setattr(module, "here", lambda: here()._replace(torch=version))
    said = f"torch {version} is too old, it needs 2.7 or newer: pip install -U torch"
    assert main(["build"]) == 1
    assert capsys.readouterr() == ("", f"not built, so pure Python runs: {said}\n")
    with pytest.raises(compiling.BuildError, match="is too old"):  # as a wheel calls it
        compiling.build()
    assert main(["status"]) == 1
    assert capsys.readouterr() == (f"native step: does not run: {said}\n", "")
    with pytest.warns(loading.NativeStepWarning) as seen:
        loading.warn_if_missing()
    assert str(seen[0].message).endswith(f"so fast mode is slower: {said}")
    assert not (tmp_path / "libraries").exists()


@pytest.mark.parametrize("version", ["2.7.0", "2.13.0+cpu", "2.10.0a0+git1234567", "3.0.0"])
def test_new_enough(version: str) -> None:
    assert here()._replace(torch=version).too_old == ""
