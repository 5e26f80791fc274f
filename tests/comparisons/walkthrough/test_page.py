"""The page as its reader has it: opened in headless Chromium, walked through, read, chosen from.

What it shows is compared with manualbp.reference's values; 4 significant digits are shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comparisons.walkthrough.examples import EXAMPLES, MAZUR, SEVEN_NODES, Example
from comparisons.walkthrough.page import build
from comparisons.walkthrough.page.show import PAGE
from comparisons.walkthrough.page.story import stages
from tests.comparisons.walkthrough import by_reference
from tests.parity import browser

needs_chromium = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no chromium or google-chrome on the PATH"
)
RUN = re.compile(r'(?<=<script type="application/json" id="run">).*?(?=</script>)', re.DOTALL)
# Of the network that is seen: name, label and text of each number, and what lights up.
SHOWN = """(() => {
  const seen = [...document.querySelectorAll("#networks svg")]
      .filter((svg) => getComputedStyle(svg).display !== "none");
  const of = (selector) => seen.flatMap((svg) => [...svg.querySelectorAll(selector)]);
  return { nets: seen.map((svg) => svg.dataset.net), address: location.hash,
    numbers: of("[data-key]").map((text) =>
      [text.parentNode.dataset.name, text.previousElementSibling.textContent, text.textContent]),
    lit: [...new Set(of("g.lit").map((group) => group.dataset.name))],
    formulas: Object.fromEntries([...document.querySelectorAll("#formulas li")].map((item) =>
      [item.dataset.formula, [...item.children].map((line) => line.textContent)])) };
})()"""
KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "Tab": ("Tab", 9, ""),
        "ArrowRight": ("ArrowRight", 39, ""), "ArrowLeft": ("ArrowLeft", 37, "")}  # fmt: skip


class Reader:
    """Opens the page, presses keys, and reads it."""

    def __init__(self, tab: browser.Page, path: Path) -> None:
        self.tab, self.path = tab, path
        self.size(1280)

    def size(self, width: int) -> None:
        self.tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=800,
                     deviceScaleFactor=1, mobile=width < 500)  # fmt: skip

    def open(self, address: str) -> None:
        self.tab.ask("Page.navigate", url="about:blank")
        self.tab.ask("Page.navigate", url=f"{self.path.as_uri()}#{address}")
        waited = "new Promise((done) => { const look = () => document.readyState === 'complete' "
        waited += "&& location.protocol === 'file:' ? done(1) : setTimeout(look, 20); look(); })"
        self.tab.ask("Runtime.evaluate", expression=waited, awaitPromise=True)

    def press(self, key: str) -> None:
        code, number, text = KEYS[key]
        pressed = {"key": code, "code": code, "windowsVirtualKeyCode": number, "text": text}
        self.tab.ask("Input.dispatchKeyEvent", type="keyDown", **pressed)
        self.tab.ask("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def shown(self) -> Any:
        return self.tab.value(SHOWN)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


def key_of(name: str, label: str) -> str:
    """The number that stands at a label of a node, an edge or the cost."""
    node = name.rpartition("_")[2]
    if name == "cost":
        return "C" if label == "C" else f"y_{ord(label[1]) - ord('₀')}"
    if name.startswith("w_"):
        return {"∂C/∂w": f"dC/d{name}", "new w": f"new {name}"}.get(label, name)
    letters = {"x = a": "a", "δ": "delta"}
    return f"{letters.get(label, label)}_{node}"


def wrong(e: Example, shown: Any, values: dict[str, float], phase: str, layer: int | None) -> list:
    """What the page does not show as reference has it."""
    found, seen = [], set()
    for name, label, text in shown["numbers"]:
        key = key_of(name, label)
        known = by_reference.known(e, key, phase, layer)
        seen.add(key)
        right = text == "–" if not known else close(text, values[key])
        found += [] if right else [(key, text, values[key])]
    last = phase == "update"
    expected = {key for key in values if not re.match("new|dC/db|epsilon", key)}
    replaced = {key.replace("new w", "dC/dw").replace("new b", "b") for key in values
                if last and by_reference.known(e, key, phase, layer) and "new" in key}  # fmt: skip
    renamed = {key for key in values if last and key.startswith("new")
               and by_reference.known(e, key, phase, layer)}  # fmt: skip
    found += sorted(seen ^ (expected - replaced | renamed))
    for key, lines in shown["formulas"].items():
        text = lines[-1].removeprefix("= ").partition(" ")[0]
        found += [] if close(text, values[key]) else [(key, text, values[key])]
    return found


def close(text: str, value: float) -> bool:
    return abs(float(text.replace("−", "-")) - value) <= 5.001e-4 * abs(value)


def walk(reader: Reader, e: Example, step: int) -> list:
    """All stages by the arrow key; what is wrong on the way."""
    values = by_reference.values(e, by_reference.trained(e, step))
    reader.open(f"net={e.name}&phase=input&step={step}")
    found = []
    for stage in stages(e):
        if stage.phase != "input":
            reader.press("ArrowRight")
        shown = reader.shown()
        layer = "" if stage.layer is None else f"&layer={stage.layer}"
        address = f"#net={e.name}&phase={stage.phase}{layer}&step={step}"
        if shown["nets"] != [e.name] or shown["address"] != address:
            found.append(("address", shown["nets"], shown["address"]))
        if set(shown["lit"]) != set(stage.lit) or set(shown["formulas"]) != set(stage.keys):
            found.append((stage.title, shown["lit"], shown["formulas"]))
        found += wrong(e, shown, values, stage.phase, stage.layer)
    return found


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("e", EXAMPLES, ids=lambda e: e.name)
def test_every_stage_shows_references_numbers(run: Path, tab: browser.Page, e: Example) -> None:
    reader = Reader(tab, run / PAGE)
    for step in (0, 3, 100):
        assert walk(reader, e, step) == []
    reader.size(360)
    assert walk(reader, e, 100) == []


def swapped(first: str, second: str) -> Callable[[dict[str, str]], None]:
    def swap(numbers: dict[str, str]) -> None:
        numbers[first], numbers[second] = numbers[second], numbers[first]

    return swap


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [("w_31", "dC/dw_31"), ("delta_3", "delta_5"), ("z_4", "a_4"),
                          ("w_31", "w_32"), ("new w_53", "w_53")],
)  # fmt: skip
def test_a_planted_fault_is_seen(
    run: Path, tab: browser.Page, tmp_path: Path, first: str, second: str
) -> None:
    html = (run / PAGE).read_text()
    record = json.loads(RUN.findall(html)[0])
    net = next(net for net in record if net["name"] == MAZUR.name)
    swapped(first, second)(net["stops"][0]["short"])
    (tmp_path / PAGE).write_text(RUN.sub(lambda _: json.dumps(record), html))
    found = walk(Reader(tab, tmp_path / PAGE), MAZUR, 0)
    assert {first, second} <= {each[0] for each in found}


@pytest.mark.slow
@needs_chromium
def test_keys_choose_and_the_slider_trains(run: Path, tab: browser.Page) -> None:
    reader = Reader(tab, run / PAGE)
    reader.open("net=mazur&phase=backward&layer=1&step=0&show=w_31")
    assert list(reader.shown()["formulas"]) == ["w_31", "dC/dw_31"]  # the update is still to come
    reader.press("Escape")
    assert "delta_3" in reader.shown()["formulas"]
    tab.value("document.querySelector('svg.wide[data-net=mazur] [data-name=node_3]').focus()")
    reader.press("Enter")
    formulas = reader.shown()["formulas"]
    assert list(formulas) == ["b_3", "z_3", "a_3", "delta_3", "dC/db_3"]
    assert formulas["z_3"] == [
        "z₃ = w₃₁ a₁ + w₃₂ a₂ + b₃", "= 0.15 · 0.05 + 0.2 · 0.1 + 0.35", "= 0.3775"
    ]  # fmt: skip
    assert formulas["delta_3"][2] == ("= (0.1385 · 0.4 + (−0.0381) · 0.5) · 0.5933 · (1 − 0.5933)")
    assert "show=node_3" in reader.shown()["address"]
    tab.value("document.getElementById('slider').focus()")
    for _ in range(2):
        reader.press("ArrowRight")
    assert "step=2&show=node_3" in reader.shown()["address"]
    values = by_reference.values(MAZUR, by_reference.trained(MAZUR, 2))
    assert wrong(MAZUR, reader.shown(), values, "backward", 1) == []
    said = tab.value("document.getElementById('position').textContent")
    assert said.startswith("After 2 updates: cost C = ") and close(said.split()[-1], values["C"])


@pytest.mark.slow
@needs_chromium
def test_after_the_update_it_trains_on(run: Path, tab: browser.Page) -> None:
    reader = Reader(tab, run / PAGE)
    reader.open("net=seven-nodes&phase=update&step=1")
    press = "document.getElementById('next').click()"
    assert tab.value("document.getElementById('next').textContent") == "Train on"
    tab.value(press)
    assert reader.shown()["address"] == "#net=seven-nodes&phase=input&step=2"
    tab.value("document.querySelector('#nets button[value=mazur]').click()")
    assert reader.shown()["address"] == "#net=mazur&phase=input&step=0"
    tab.value("document.querySelector('#stages button[value=\"3\"]').click()")
    tab.value("document.querySelector('svg.wide[data-net=mazur] g[data-name=cost][role] text')"
              ".dispatchEvent(new MouseEvent('click', {bubbles: true}))")  # fmt: skip
    assert reader.shown()["address"] == "#net=mazur&phase=cost&step=0&show=cost"
    assert reader.shown()["formulas"].keys() == {"C"}


@pytest.mark.slow
@needs_chromium
def test_a_wrong_address_begins_the_walk(run: Path, tab: browser.Page) -> None:
    reader = Reader(tab, run / PAGE)
    reader.open("net=none&phase=sideways&step=12.5&show=__proto__")
    values = by_reference.values(EXAMPLES[0], EXAMPLES[0].network)
    assert wrong(EXAMPLES[0], reader.shown(), values, "input", None) == []


@pytest.mark.slow
@needs_chromium
def test_it_is_readable_on_a_phone_and_in_the_dark(run: Path, tab: browser.Page) -> None:
    reader, ground = Reader(tab, run / PAGE), "getComputedStyle(document.body).backgroundColor"
    reader.size(360)
    colours = []
    for scheme in ("light", "dark"):
        tab.ask("Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
        reader.open(f"net={SEVEN_NODES.name}&phase=update")
        assert tab.value("document.documentElement.scrollWidth") == 360
        height = "document.querySelector('svg.narrow:not([hidden]) text').getBoundingClientRect()"
        assert tab.value(f"{height}.height") >= 10
        colours.append(tab.value(ground))
    assert colours == ["rgb(255, 255, 255)", "rgb(21, 24, 29)"]


def test_it_needs_no_network(run: Path) -> None:
    html = (run / PAGE).read_text()
    assert "default-src 'none'" in html
    assert re.findall(r"https?:|url\(|\bsrc=|\bhref=|@import", html) == []


def test_its_numbers_are_the_runs_and_not_its_own() -> None:
    """JavaScript adds and multiplies nothing that is shown: no operator but those of places."""
    for name in build.SCRIPTS:
        code = (build.FOLDER / name).read_text()
        assert len(code.splitlines()) <= 200
        assert re.findall(r"\bMath\.(?!max)|parseFloat|toFixed|toPrecision|\*|/ ", 
                          re.sub(r"//.*|/\\\{.*?/g", "", code)) == []  # fmt: skip
