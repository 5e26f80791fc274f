"use strict";
// The words of the stage, and formulas with the numbers put in. Python has written both; here
// each name in braces is replaced by its number.

function drawPanel() {
  const { title, rule, words, keys } = currentStage();
  const chosen = state.chosen !== "";
  setText("title", chosen ? titleOf(state.chosen) : title);
  setText("rule", rule);
  setText("words", chosen ? "" : words);
  const shown = chosen ? state.net.elements[state.chosen].filter(isKnown) : keys;
  document.getElementById("formulas").replaceChildren(...shown.map(formula));
  document.getElementById("whole").hidden = !chosen;
  document.getElementById("hint").hidden = chosen;
}

function titleOf(name) {
  const group = document.querySelector(`[data-net="${state.net.name}"] g[data-name="${name}"][role]`);
  return group.getAttribute("aria-label");
}

function formula(key) {
  const { symbols, numbers } = state.net.formulas[key];
  const { short, long } = currentStop();
  const item = document.createElement("li");
  item.dataset.formula = key;
  item.append(...symbols.map((words) => line("symbols", words)));
  if (numbers !== "") item.append(line("numbers", "= " + putIn(numbers, short)));
  const result = line("result", "= " + short[key]);
  if (long[key] !== short[key]) {
    const exact = document.createElement("span");
    exact.textContent = ` (${long[key]})`;
    result.append(exact);
  }
  item.append(result);
  return item;
}

// A negative number stands in brackets, so that its sign is no subtraction.
function putIn(numbers, values) {
  return numbers.replace(/\{([^}]+)\}/g, (_, key) => {
    const value = values[key];
    return value.startsWith("−") ? `(${value})` : value;
  });
}

function line(kind, words) {
  const element = document.createElement("div");
  element.className = kind;
  element.textContent = words;
  return element;
}

function setText(id, words) {
  const element = document.getElementById(id);
  element.textContent = words;
  element.hidden = words === "";
}
