"""What the page knows: its numbers, when they are known, and formulas that come out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from comparisons.walkthrough import written
from comparisons.walkthrough.examples import EXAMPLES, MAZUR, SEVEN_NODES, Example
from comparisons.walkthrough.page.record import at, record
from tests.comparisons.walkthrough import by_reference

DOCS = Path(__file__).parents[3] / "docs/walkthrough.md"
NAMES = [e.name for e in EXAMPLES]


def made(e: Example, step: int = 3) -> dict:
    kept = {0: e.network, step: by_reference.trained(e, step)}
    return record(e, kept, {s: at(e, network) for s, network in kept.items()})


def number(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("e", EXAMPLES, ids=NAMES)
def test_numbers_are_those_of_reference(e: Example) -> None:
    """Rounded to 4 and to 9 digits."""
    for stop in made(e)["stops"]:
        expected = by_reference.values(e, by_reference.trained(e, stop["step"]))
        assert stop["short"].keys() == stop["long"].keys() == expected.keys()
        for key, value in expected.items():
            assert number(stop["short"][key]) == pytest.approx(value, rel=5.001e-4, abs=0)
            assert number(stop["long"][key]) == pytest.approx(value, rel=5.001e-9, abs=0)


@pytest.mark.parametrize("e", EXAMPLES, ids=NAMES)
def test_every_number_becomes_known_in_its_turn(e: Example) -> None:
    found = made(e)
    for number, stage in enumerate(found["stages"]):
        for key, since in found["known"].items():
            expected = by_reference.known(e, key, stage["phase"], stage["layer"])
            assert (since <= number) == expected, (key, stage)


@pytest.mark.parametrize("e", EXAMPLES, ids=NAMES)
def test_formulas_come_out(e: Example) -> None:
    """With reference's numbers in their places; 1e-12 for the other order of the sums."""
    known, tried = by_reference.values(e, e.network), set()
    for key, formula in made(e)["formulas"].items():
        code = formula["numbers"].replace("·", "*").replace("−", "-").replace("²", "**2")
        code = code.replace("e^", "exp")
        if code:
            put_in = re.sub(r"\{([^}]+)\}", lambda found: f"({known[found[1]]!r})", code)
            assert eval(put_in, {"exp": math.exp}) == pytest.approx(known[key], rel=1e-12), key
            tried.add(key)
    kept = set() if e.train_biases else {key for key in known if key.startswith("new b")}
    assert tried == {key for key in known if re.match("[za]_|delta|dC|new|C", key)} - kept - {
        f"a_{n}" for n in range(1, len(e.x) + 1)
    }


def test_formulas_are_written_as_in_the_article() -> None:
    formulas = made(MAZUR)["formulas"]
    assert formulas["delta_3"]["symbols"] == [
        "δ₃ = (δ₅ w₅₃ + δ₆ w₆₃) f′(z₃)", "= (δ₅ w₅₃ + δ₆ w₆₃) a₃ (1 − a₃)"
    ]  # fmt: skip
    assert formulas["C"]["numbers"] == "(({a_5} − {y_5})² + ({a_6} − {y_6})²) / 2"
    assert formulas["new w_31"]["symbols"] == ["new w₃₁ = w₃₁ − ε ∂C/∂w₃₁"]
    assert formulas["new b_3"] == {"symbols": ["new b₃ = b₃, kept"], "numbers": ""}


def test_the_docs_say_the_same() -> None:
    """docs/walkthrough.md: Mazur's formulas with the numbers put in."""
    found = made(MAZUR)
    short = found["stops"][0]["short"]

    def put_in(name: re.Match[str]) -> str:
        value = short[name[1]]
        return f"({value})" if value.startswith("−") else value

    said = []
    for key in ("z_3", "a_3", "C", "delta_5", "dC/dw_53", "delta_3", "dC/dw_31", "new w_31"):
        formula = found["formulas"][key]
        numbers = re.sub(r"\{([^}]+)\}", put_in, formula["numbers"])
        said += [*formula["symbols"], f"= {numbers}", f"= {short[key]}"]
    blocks = re.findall(r"```text\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    assert [line for line in lines if line] == said


def test_elements_have_all_numbers() -> None:
    found = made(SEVEN_NODES)
    listed = {key for keys in found["elements"].values() for key in keys}
    assert listed == found["known"].keys() - {"epsilon", "y_7"}
    lit = {name for stage in found["stages"] for name in stage["lit"]}
    assert lit == found["elements"].keys()


@pytest.mark.parametrize(
    ("value", "short", "long"),
    [
        (0.593269992, "0.5933", "0.593269992"),
        (-3.14159e-7, "−3.142e-7", "−3.14159e-7"),
        (12345678.0, "1.235e7", "12345678"),
        (0.0, "0", "0"),
    ],
)
def test_numbers_are_written(value: float, short: str, long: str) -> None:
    assert (written.short(value), written.long(value)) == (short, long)
