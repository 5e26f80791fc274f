"use strict";
// Puts the numbers of the current state into the pictures, which Python has drawn.

function drawNetworks() {
  for (const picture of document.querySelectorAll("[data-net]")) {
    const shown = picture.dataset.net === state.net.name;
    picture.toggleAttribute("hidden", !shown);
    if (shown) drawNetwork(picture);
  }
}

function drawNetwork(picture) {
  const { phase, keys, lit } = currentStage();
  picture.setAttribute("data-phase", phase);
  for (const group of picture.querySelectorAll("g[data-name]")) {
    group.classList.toggle("lit", lit.includes(group.dataset.name));
    group.classList.toggle("chosen", group.dataset.name === state.chosen);
  }
  for (const text of picture.querySelectorAll("text[data-key], text[data-later]")) {
    const { key, later, words, laterWords } = text.dataset;
    const replaced = later !== undefined && isKnown(later);
    const shown = replaced ? later : key;
    if (key === undefined) {
      text.textContent = replaced ? laterWords : words;
      continue;
    }
    text.textContent = isKnown(shown) ? currentStop().short[shown] : "–";
    text.classList.toggle("unknown", !isKnown(shown));
    text.classList.toggle("now", keys.includes(shown));
  }
}

function drawTraining() {
  const slider = document.getElementById("slider");
  const { said, short } = currentStop();
  const words = `${said}: cost C = ${short.C}`;
  slider.max = state.net.stops.length - 1;
  slider.value = state.stop;
  slider.setAttribute("aria-valuetext", words);
  document.getElementById("position").textContent = words;
  for (const dot of document.querySelectorAll("circle[data-stop]"))
    dot.classList.toggle("now", Number(dot.dataset.stop) === state.stop);
}
