"""A comparison of gradients in one file, to be run again: elsewhere, later, by somebody else.

    save_repro("linear.repro", candidate, reference, x, {"loss": nn.MSELoss(), "target": y})
    compare_gradients(**read_repro("linear.repro", load_arm))

The file holds both arms, the inputs, every setting, and the versions it was made with.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manualbp.parity import files
from manualbp.parity.versions import versions

FORMAT = "manualbp repro 2"
ARMS = ("candidate", "reference")


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
        specs: ``package.module:name`` of both arms, which can be imported. Then the file holds
            these and the modules' state instead of the modules.

    Raises:
        ValueError: something cannot be written or imported again: a lambda, a local class, or one
            of the program that is running. No file is written then.
        OSError: the file cannot be written.
    """
    places = dict(zip(ARMS, specs or (None, None), strict=True))
    arms = {"candidate": candidate, "reference": reference}
    parts = {name: _state(arm) if places[name] else arm for name, arm in arms.items()}
    parts |= {"inputs": inputs, **settings}
    body = _pickled(parts)
    # The body is pickled by itself: what it needs may be importable only after the specs.
    whole = {"format": FORMAT, "versions": _versions(), "specs": places, "body": body}
    whole["digest"] = _digest(whole)
    found = io.BytesIO()  # torch.save into a full disk names no file
    torch.save(whole, found)
    files.write(path, lambda file: file.write(found.getbuffer()))


def read_repro(path: str | os.PathLike[str], load_arm: Callable[[str], Any]) -> dict[str, Any]:
    """The arguments of ``compare_gradients`` by name; ``load_arm`` makes an arm of its spec.

    A repro file is a program: it is unpickled. Only open what you trust. Warns where a version, the
    machine or the number of threads is not what it was written with.

    Raises:
        ValueError: the file is no repro file or damaged, or what it needs cannot be imported.
        OSError: the file is not there or cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"expected a repro file, found no {os.fspath(path)}; write one with --repro, or with "
            "compare_gradients(..., repro=...)"
        )
    with Path(path).open("rb") as file:
        whole = _unpickled(file, path)
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        found = whole.get("format") if isinstance(whole, dict) else type(whole).__name__
        raise ValueError(f"expected a file of format {FORMAT!r}, got {found!r}; write it anew")
    if not _undamaged(whole):
        raise ValueError(
            f"expected a repro file, got {os.fspath(path)}, whose checksum differs: it is damaged "
            "or was edited; write it anew"
        )
    now = _versions()
    changed = [f"{name} {was}, now {now.get(name, 'none')}"
               for name, was in whole["versions"].items() if now.get(name) != was]  # fmt: skip
    if changed:
        warnings.warn(
            f"{os.fspath(path)} was written with {'; '.join(changed)}: numbers may differ",
            stacklevel=3,
        )
    made = {name: load_arm(spec) for name, spec in whole["specs"].items() if spec}
    parts: dict[str, Any] = _unpickled(io.BytesIO(whole["body"]), path)
    return parts | {name: _restored(made.get(name), parts[name]) for name in ARMS}


def _state(arm: Any) -> Any:
    """What an arm holds beyond its spec."""
    if not isinstance(arm, nn.Module):
        return None
    return {
        "state": arm.state_dict(),
        "training": {name: module.training for name, module in arm.named_modules()},
        "frozen": [name for name, p in arm.named_parameters() if not p.requires_grad],
    }


def _restored(arm: Any, part: Any) -> Any:
    """The arm as it was saved: ``part`` itself, or ``arm`` made by its spec with that state."""
    if arm is None or part is None:
        return part if arm is None else arm
    own = arm.state_dict(keep_vars=True)
    for name, value in part["state"].items():
        if name in own and isinstance(value, torch.Tensor):  # load_state_dict keeps arm's dtype
            own[name].data = own[name].data.to(value.dtype)
    arm.load_state_dict(part["state"])
    for name, module in arm.named_modules():
        module.training = part["training"].get(name, module.training)
    for name, parameter in arm.named_parameters():
        parameter.requires_grad_(name not in part["frozen"])
    return arm


def _pickled(parts: Mapping[str, Any]) -> bytes:
    """All parts as bytes.

    Raises:
        ValueError: another process could not read one of them.
    """
    remedy = "move it to the top level of a module, or give the arms by specs package.module:name"
    for name, part in parts.items():
        for what in _made_of(part):
            if what.__module__ == "__main__":
                raise ValueError(
                    f"expected {name} to be importable, got {what.__qualname__} of the program "
                    f"that is running; {remedy}"
                )
        try:
            torch.save(part, io.BytesIO())
        except Exception as error:  # pickle has no common class for what it refuses
            shown = getattr(part, "__qualname__", type(part).__qualname__)
            raise ValueError(
                f"expected {name} to be importable, got {shown}: {error}; {remedy}"
            ) from error
    body = io.BytesIO()
    torch.save(dict(parts), body)
    return body.getvalue()


def _made_of(part: Any) -> Iterator[Any]:
    """The classes and functions that an arm, a loss or a function of the seed needs."""
    if isinstance(part, nn.Module):
        yield from (type(module) for module in part.modules())
    elif inspect.isfunction(part) or isinstance(part, type):
        yield part


def _unpickled(file: Any, path: str | os.PathLike[str]) -> Any:
    try:
        device = None if torch.cuda.is_available() else "cpu"
        return torch.load(file, map_location=device, weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"expected what {os.fspath(path)} needs to be importable, got {type(error).__name__}: "
            f"{error}; run where it is, or set PYTHONPATH"
        ) from error
    except Exception as error:  # whatever bytes that are no pickle lead to
        raise ValueError(
            f"expected a repro file, got {os.fspath(path)}: {type(error).__name__}"
        ) from error


def _undamaged(whole: Mapping[str, Any]) -> bool:
    try:
        return bool(whole["digest"] == _digest(whole))
    except (KeyError, TypeError, AttributeError):  # something else in the right form
        return False


def _digest(whole: Mapping[str, Any]) -> str:
    """SHA-256 of all that a file holds."""
    words = repr([whole["format"], sorted(whole["versions"].items()), whole["specs"]])
    return hashlib.sha256(words.encode() + whole["body"]).hexdigest()


def _versions() -> dict[str, str]:
    """Versions, and the number of threads, on which the order of sums depends."""
    return {**versions(), "threads": str(torch.get_num_threads())}
