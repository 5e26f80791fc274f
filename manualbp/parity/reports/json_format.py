"""A report as JSON that reads back to an equal report.

NaN and infinity, which JSON does not have, are the strings ``nan``, ``inf`` and ``-inf``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import Any, get_args, get_origin, get_type_hints

import torch

from manualbp.parity.record import GradientReport
from manualbp.parity.training_record import (
    Curve,
    Histogram,
    Report,
    TrainingReport,
    check_report,
)
from manualbp.parity.versions import versions

SCHEMA = "manualbp.parity.report"
SCHEMA_VERSION = 1
_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values()
           if isinstance(d, torch.dtype)}  # fmt: skip
_KINDS = {kind.__name__: kind for kind in (GradientReport, TrainingReport)}


def to_json(report: Report) -> str:
    """The whole report, its verdict and the versions of what wrote it.

    Raises:
        TypeError: it is no report.
    """
    check_report(report)
    content = {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "kind": type(report).__name__,
        "verdict": report.verdict, "versions": versions(), "report": _encode(report),
    }  # fmt: skip
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Report:
    """The report that ``to_json`` wrote, equal to it.

    Raises:
        ValueError: it is not JSON, not a report, of another schema version, or something in it is
            missing or of the wrong type.
    """
    try:
        content = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:  # cut off, no text, nested too deep
        raise ValueError(f"expected JSON that to_json wrote, got: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(
            f"expected JSON that to_json wrote, with schema {SCHEMA!r}, got {_short(content)}"
        )
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"expected schema version {SCHEMA_VERSION}, got {content.get('schema_version')!r}; "
            f"read it with the manualbp that wrote it: {_short(content.get('versions'))}"
        )
    kind = next((k for k in _KINDS if k == content.get("kind")), None)
    if kind is None:
        raise ValueError(f"expected kind {' or '.join(_KINDS)}, got {_short(content.get('kind'))}")
    report: Report
    report = _decode(content.get("report"), _KINDS[kind], "report")
    return report


def _encode(value: Any) -> Any:
    """JSON's types for a dataclass, a tuple, a dtype, a number."""
    if dataclasses.is_dataclass(value):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(value: Any, kind: Any, where: str) -> Any:
    """From JSON's types, by the annotation ``kind`` of a field; ``where`` names it in errors."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:  # "kind or None" is the only one there is
        kind = next(k for k in inner if k is not type(None))
        return None if value is None else _decode(value, kind, where)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(value, kind, where)
    if origin is dict:
        _check(value, dict, where)
        return {k: _decode(item, inner[1], f"{where}.{k}") for k, item in value.items()}
    if origin in (tuple, list):
        _check(value, list, where)
        single = origin is list or inner[-1] is Ellipsis
        kinds = [inner[0]] * len(value) if single else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"expected {len(kinds)} values in {where}, got {len(value)}")
        pairs = enumerate(zip(value, kinds, strict=True))
        return origin(_decode(item, k, f"{where}[{i}]") for i, (item, k) in pairs)
    if kind is torch.dtype:
        found = _DTYPES.get(value) if isinstance(value, str) else None
        _check(found, torch.dtype, where, value)
        return found
    if kind is float:
        return _decode_float(value, where)
    _check(value, kind, where)
    return value


def _decode_float(value: Any, where: str) -> float:
    if value == "nan":
        return math.nan  # the very object, so that reports that have it are equal
    _check(float(value) if value in ("inf", "-inf") else value, (int, float), where)
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{where} is no number of float64; was the file edited?") from error


def _decode_fields(value: Any, kind: Any, where: str) -> Any:
    _check(value, dict, where)
    hints, fields = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    unknown = set(value) - set(fields)
    if unknown:
        raise ValueError(f"{where} has unknown fields {', '.join(sorted(unknown))}; was it edited?")
    missing = [
        name for name, f in fields.items()
        if name not in value
        and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}; was it cut off or edited?")
    found = kind(**{name: _decode(v, hints[name], f"{where}.{name}") for name, v in value.items()})
    if isinstance(found, Curve) and len(found.steps) != len(found.values):
        raise ValueError(f"{where} has steps without values; was the file edited?")
    if isinstance(found, Histogram) and len(found.edges) != len(found.counts) + 1:
        raise ValueError(f"{where} has bins without edges; was the file edited?")
    return found


def _check(value: Any, kind: Any, where: str, shown: Any = None) -> None:
    """Raise where the value is not of this kind; True is no number here."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        got = _short(value if shown is None else shown)
        raise ValueError(f"expected {names} in {where}, got {got}; was the file edited?")


def _short(value: Any) -> str:
    try:
        shown = repr(value)
    except RecursionError:  # nested just less deeply than json refuses
        shown = f"a {type(value).__name__} nested very deeply"
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
