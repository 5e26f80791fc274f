"""Layers, rows and columns as one says them."""

from __future__ import annotations


def title(layer: str | None) -> str:
    """A layer's name in a sentence: ``fc1``, ``layer 0``, ``the module`` itself."""
    if not layer:
        return "the module"
    return f"layer {layer}" if layer.isdigit() else layer


def spans(indices: list[int]) -> list[tuple[int, int]]:
    """Sorted indices as the longest spans [start, stop) without a gap."""
    found: list[tuple[int, int]] = []
    for i in indices:
        if found and found[-1][1] == i:
            found[-1] = found[-1][0], i + 1
        else:
            found.append((i, i + 1))
    return found


def listed(noun: str, found: list[tuple[int, int]], count: int) -> str:
    """Spans in words: ``rows 1 and 4 to 6 of 8``."""
    shown = [str(a) if b - a == 1 else f"{a} to {b - 1}" for a, b in found[:4]]
    if len(found) > 4:
        shown.append(f"{len(found) - 4} more")
    many = "s" if sum(b - a for a, b in found) > 1 else ""
    joined = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"{noun}{many} {joined} of {count}"


def tile(found: list[tuple[int, int]], count: int) -> str:
    """``: the last tile`` where a single span of neighbours is at an edge or an aligned block."""
    (start, stop), *more = found
    if more or stop - start < 2:
        return ""
    if stop == count:
        return ": the last tile"
    if not start:
        return ": the first tile"
    return ": one tile" if stop - start >= 4 and start % (stop - start) == 0 else ""


def noun_of(dims: int, dim: int) -> str:
    """What one index along a dimension is called."""
    return "element" if dims == 1 else ("row", "column")[dim] if dims == 2 else f"dim-{dim} index"
