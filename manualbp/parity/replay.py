"""A comparison in one file, to be run again: elsewhere, later, by somebody else.

    save_repro("linear.repro", candidate, reference, x, {"loss": nn.MSELoss(), "target": y})
    report = replay("linear.repro")

The file holds both arms, the inputs, every setting, and the versions it was made with.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manualbp.parity.gradients import compare_gradients
from manualbp.parity.record import GradientReport
from manualbp.parity.versions import versions

FORMAT = "manualbp repro 1"


def save_repro(
    path: str | os.PathLike[str],
    candidate: Any,
    reference: Any,
    inputs: Any,
    settings: Mapping[str, Any],
    specs: tuple[str, str] | None = None,
) -> None:
    """Write what ``compare_gradients(candidate, reference, inputs, **settings)`` needs.

    Args:
        path: the file; whole or not there at all, also when the process dies meanwhile.
        candidate: the arm under test.
        reference: what it should equal.
        inputs: as for ``compare_gradients``.
        settings: its further arguments by name: ``loss``, ``target``, ``seeds``, ``exact``, ...
        specs: ``package.module:name`` of both arms. Then the file holds these and the modules'
            state instead of the modules.

    Raises:
        ValueError: something cannot be written or imported again: a lambda, a local class, or one
            of the program that is running. No file is written then.
    """
    arms = {"candidate": candidate, "reference": reference}
    names = dict(zip(arms, specs or (None, None), strict=True))
    parts = {name: _arm(arm, names[name]) for name, arm in arms.items()}
    parts |= {"inputs": inputs, **{f"settings[{n!r}]": value for n, value in settings.items()}}
    for name, part in parts.items():
        _check(name, part)
    whole = {
        "format": FORMAT, "versions": _versions(), "inputs": inputs, "settings": dict(settings),
        **{name: parts[name] for name in arms},
    }  # fmt: skip
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        torch.save(whole, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def replay(path: str | os.PathLike[str]) -> GradientReport:
    """Run the comparison in a repro file again; on the same machine with the same numbers.

    A repro file is a program: it is unpickled, and its arms are run. Only open what you trust.
    Warns where a version, the machine or the number of threads is not what it was written with.

    Raises:
        ValueError: the file is no repro file, or what it needs cannot be imported.
        OSError: the file cannot be read.
    """
    whole = _read(path)
    now = _versions()
    changed = [f"{name} {was}, now {now.get(name, 'none')}"
               for name, was in whole["versions"].items() if now.get(name) != was]  # fmt: skip
    if changed:
        warnings.warn(
            f"{os.fspath(path)} was written with {'; '.join(changed)}: numbers may differ",
            stacklevel=2,
        )
    candidate, reference = (_restored(whole[name]) for name in ("candidate", "reference"))
    return compare_gradients(candidate, reference, whole["inputs"], **whole["settings"])


def load_spec(spec: str) -> Any:
    """The arm that ``package.module:name`` names.

    A module class, or a function that takes no argument, is called for it.

    Raises:
        ValueError: there is no such module or name.
    """
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise ValueError(f"expected package.module:name, got {spec!r}")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"expected {spec} to be importable, got {type(error).__name__}: {error}; run where it "
            "is, or set PYTHONPATH"
        ) from error
    return found() if _makes_an_arm(found) else found


def _makes_an_arm(found: Any) -> bool:
    if isinstance(found, type):
        return issubclass(found, nn.Module)
    return inspect.isfunction(found) and not inspect.signature(found).parameters


def _arm(arm: Any, spec: str | None) -> Any:
    """The arm itself, or how to make it."""
    if spec is None:
        return {"arm": arm}
    load_spec(spec)  # a name that cannot be imported is of no use in the file
    if not isinstance(arm, nn.Module):
        return {"spec": spec}
    return {
        "spec": spec, "state": arm.state_dict(),
        "training": {name: module.training for name, module in arm.named_modules()},
        "frozen": [name for name, p in arm.named_parameters() if not p.requires_grad],
    }  # fmt: skip


def _restored(part: dict[str, Any]) -> Any:
    if "arm" in part:
        return part["arm"]
    arm = load_spec(part["spec"])
    if "state" not in part:
        return arm
    floating = [v.dtype for v in part["state"].values() if v.is_floating_point()]
    if floating and len(set(floating)) == 1:
        arm.to(floating[0])
    arm.load_state_dict(part["state"])
    for name, module in arm.named_modules():
        module.training = part["training"].get(name, module.training)
    for name, parameter in arm.named_parameters():
        parameter.requires_grad_(name not in part["frozen"])
    return arm


def _check(name: str, part: Any) -> None:
    """Whether another process can read it.

    Raises:
        ValueError: it cannot.
    """
    remedy = "move it to the top level of a module, or pass specs"
    for what in _classes(part):
        if what.__module__ == "__main__":
            raise ValueError(
                f"expected {name} to be importable, got {what.__qualname__} of the program that "
                f"is running; {remedy}"
            )
    try:
        torch.save(part, io.BytesIO())
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"expected {name} to be importable, got {_shown(part)}: {error}; {remedy}"
        ) from error


def _classes(part: Any) -> Iterator[Any]:
    """The classes and functions an arm or a setting consists of."""
    part = part["arm"] if isinstance(part, dict) and set(part) == {"arm"} else part
    if isinstance(part, nn.Module):
        yield from (type(module) for module in part.modules())
    elif inspect.isfunction(part) or isinstance(part, type):
        yield part


def _shown(part: Any) -> str:
    part = part["arm"] if isinstance(part, dict) and set(part) == {"arm"} else part
    return getattr(part, "__qualname__", type(part).__qualname__)


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    place = None if torch.cuda.is_available() else "cpu"
    try:
        whole = torch.load(path, map_location=place, weights_only=False)
    except OSError:
        raise
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"expected what {os.fspath(path)} needs to be importable, got {type(error).__name__}: "
            f"{error}; run where it is, or set PYTHONPATH (sys.path is {sys.path})"
        ) from error
    except Exception as error:
        raise ValueError(f"expected a repro file, got {os.fspath(path)}: {error}") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        found = whole.get("format") if isinstance(whole, dict) else type(whole).__name__
        raise ValueError(f"expected a file of format {FORMAT!r}, got {found!r}; write it anew")
    return whole


def _versions() -> dict[str, str]:
    """Versions, and the threads: sums over threads are cut otherwise."""
    return {**versions(), "threads": str(torch.get_num_threads())}
