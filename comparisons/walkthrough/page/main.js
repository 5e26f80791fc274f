"use strict";
// Buttons, keys, the slider and the address lead from state to state.

function go(changes) {
  Object.assign(state, changes);
  writeAddress();
  draw();
}

function draw() {
  document.body.className = currentStage().phase;
  drawNetworks();
  drawTraining();
  drawPanel();
  drawControls();
}

function drawControls() {
  for (const button of document.querySelectorAll("#nets button"))
    button.setAttribute("aria-pressed", button.value === state.net.name);
  const items = state.net.stages.map(({ phase, layer }, number) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.value = number;
    button.textContent = phase[0].toUpperCase() + phase.slice(1) + (layer === null ? "" : ` ${layer}`);
    if (number === state.stage) button.setAttribute("aria-current", "step");
    item.append(button);
    return item;
  });
  const list = document.getElementById("stages");
  const focused = list.contains(document.activeElement);
  list.replaceChildren(...items);
  if (focused) items[state.stage].firstChild.focus();
  list.scrollLeft = items[state.stage].offsetLeft - list.offsetLeft - 100;
  document.getElementById("previous").disabled = state.stage === 0;
  const last = state.stage === state.net.stages.length - 1;
  document.getElementById("next").textContent = last ? "Train on" : "Next";
  document.getElementById("next").disabled = last && state.stop === state.net.stops.length - 1;
}

// After the update it all begins again, with the weights of the slider's next stop.
function walk(stage) {
  const ended = stage === state.net.stages.length;
  if (stage < 0 || (ended && state.stop === state.net.stops.length - 1)) return;
  go(ended ? { stage: 0, stop: state.stop + 1, chosen: "" } : { stage, chosen: "" });
  if (isNarrow())
    document.querySelector("svg.narrow:not([hidden]) g.lit[role]").scrollIntoView({ block: "center" });
}

// In another network the walk is at the same kind of stage, if it has that one.
function changeNet(name) {
  const { phase, layer } = currentStage();
  const net = run.find((each) => each.name === name);
  const same = net.stages.findIndex((stage) => stage.phase === phase && stage.layer === layer);
  go({ net, stage: Math.max(0, same), stop: 0, chosen: "" });
}

function choose(target) {
  const group = target.closest("g[data-name]");
  if (!group) return;
  go({ chosen: group.dataset.name });
  if (isNarrow()) document.getElementById("panel").scrollIntoView({ block: "center" });
}

// As page.css decides: then the network goes from top to bottom, and the page scrolls along.
function isNarrow() {
  return getComputedStyle(document.querySelector("svg.narrow:not([hidden])")).display !== "none";
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const inSlider = event.target.id === "slider";
  const onElement = event.target.matches("g[data-name]");
  if (event.key === "ArrowRight" && !inSlider) walk(state.stage + 1);
  else if (event.key === "ArrowLeft" && !inSlider) walk(state.stage - 1);
  else if (event.key === "Escape") go({ chosen: "" });
  else if ((event.key === "Enter" || event.key === " ") && onElement) choose(event.target);
  else return;
  event.preventDefault();
}

function listen(id, type, action) {
  document.getElementById(id).addEventListener(type, action);
}

listen("previous", "click", () => walk(state.stage - 1));
listen("next", "click", () => walk(state.stage + 1));
listen("whole", "click", () => go({ chosen: "" }));
listen("slider", "input", (event) => go({ stop: Number(event.target.value) }));
listen("networks", "click", (event) => choose(event.target));
listen("nets", "click", (event) => event.target.value && changeNet(event.target.value));
listen("stages", "click", (event) => event.target.value && walk(Number(event.target.value)));
listen("costs", "click", (event) => {
  const { stop } = event.target.dataset;
  if (stop !== undefined) go({ stop: Number(stop) });
});
document.addEventListener("keydown", onKey);
addEventListener("hashchange", () => { readAddress(); draw(); });
readAddress();
draw();
