"""How numbers, names and formulas are written where people read them."""

from __future__ import annotations

import re

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_WORDS = {"delta": "δ", "epsilon": "ε", "dC/d": "∂C/∂", "^2": "²", "f'": "f′", " - ": " − ",
          "(-": "(−"}  # fmt: skip
# A number of the network by its name: w_31, dC/dw_31, new w_31, epsilon.
KEY = r"(?:dC/d[wb]_\d+|new [wb]_\d+|delta_\d+|[zawby]_\d+|epsilon)"


def short(value: float) -> str:
    """Four significant digits: 0.5933, −3.1e-7."""
    return _number(f"{value:.4g}")


def long(value: float) -> str:
    """Nine, as many as Mazur prints."""
    return _number(f"{value:.9g}")


def _number(text: str) -> str:
    """A true minus in front of it, and no zeros in front of the exponent."""
    number = re.sub(r"e(-?)\+?0*", r"e\1", text)
    return f"−{number[1:]}" if number.startswith("-") else number


def symbols(text: str) -> str:
    """dC/dw_31 = delta_3 a_1 as ∂C/∂w₃₁ = δ₃ a₁."""
    text = re.sub(r"_(\d+)", lambda found: found[1].translate(_SUBSCRIPTS), text)
    for word, sign in _WORDS.items():
        text = text.replace(word, sign)
    return text


def expanded(formula: str, outputs: list[int]) -> str:
    """f and f' of a sigmoid, C and dC/da written out: what is left are numbers of the picture.

    f(z) = 1 / (1 + e^-z),  f'(z) = a (1 - a),  C = sum_j (a_j - y_j)^2 / n,
    dC/da_j = 2 (a_j - y_j) / n.
    """
    n = len(outputs)
    squares = " + ".join(f"(a_{j} - y_{j})^2" for j in outputs)
    formula = formula.replace("mean of (o - y)^2", squares if n == 1 else f"({squares}) / {n}")
    slope = r"2 (a_\1 - y_\1)" if n == 1 else rf"2/{n} (a_\1 - y_\1)"
    formula = re.sub(r"dC/da_(\d+)", slope, formula)
    formula = re.sub(r"f'\(z_(\d+)\)", r"a_\1 (1 - a_\1)", formula)
    return re.sub(r"f\((z_\d+)\)", r"1 / (1 + e^(-\1))", formula)


def operands(formula: str) -> str:
    """The formula with each number's name in braces, for the number to be put in.

    What stands side by side is multiplied: ``{w_31} · {a_1}``.
    """
    braced = re.sub(KEY, lambda found: f"{{{found[0]}}}", formula)
    multiplied = re.sub(r"(?<=[})0-9]) (?=[{(])", " · ", braced)
    return multiplied.replace(" - ", " − ").replace("(-", "(−").replace("^2", "²")
