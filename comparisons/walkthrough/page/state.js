"use strict";
// Where the reader is: a network, a stage of the walk, a stop of the slider, a chosen element.
// The address says it as well, as in #net=mazur&phase=backward&layer=2&step=10&show=w_53.

const run = JSON.parse(document.getElementById("run").textContent);
const state = { net: run[0], stage: 0, stop: 0, chosen: "" };

function currentStage() {
  return state.net.stages[state.stage];
}

function currentStop() {
  return state.net.stops[state.stop];
}

function isKnown(key) {
  return state.net.known[key] <= state.stage;
}

function isChosen(name) {
  return Object.hasOwn(state.net.elements, name);
}

// What the address does not say, or says wrongly, is where the walk begins.
function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  state.net = run.find((net) => net.name === asked.get("net")) ?? run[0];
  const { stages, stops } = state.net;
  state.stage = Math.max(0, stages.findIndex((stage) =>
    stage.phase === asked.get("phase") && String(stage.layer ?? "") === (asked.get("layer") ?? "")));
  state.stop = Math.max(0, stops.findIndex((stop) => String(stop.step) === asked.get("step")));
  state.chosen = isChosen(asked.get("show")) ? asked.get("show") : "";
}

function writeAddress() {
  const { phase, layer } = currentStage();
  const said = { net: state.net.name, phase, layer, step: currentStop().step, show: state.chosen };
  const given = Object.entries(said).filter(([, value]) => value !== null && value !== "");
  history.replaceState(null, "", "#" + new URLSearchParams(given));
}
