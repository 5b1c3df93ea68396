// A figure is `draw(root, data, ask)`; this renders one by its kind: in a page alone on its data, or as an anywidget.
import {STYLE, h, light} from "./core.js";
import {masks} from "./masks.js";
import {ring} from "./ring.js";
import {pipeline} from "./pipeline.js";
import {ages} from "./ages.js";
import {attention} from "./attention.js";
import {depth} from "./depth.js";
import {noise} from "./noise.js";
import {parts} from "./parts.js";
import {training} from "./training.js";
import {quiz} from "./quiz.js";
import {network} from "./network.js";

const KINDS = {masks, ring, pipeline, ages, attention, depth, noise, parts, training, quiz, network};

export function draw(root, kind, data, text, ask = null) {
  root.classList.add("l2d-figure");
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", text);
  root.addEventListener("keydown", event => { event.stopPropagation(); if (event.key === "Escape") light(null); });      // or the notebook takes it
  root.dataset.drawn = kind;
  root.replaceChildren(h("style", {}, STYLE));
  return KINDS[kind](root, data, ask);                                     // what takes new data, where a kind has it
}

export function alone(root) {                                   // a figure in a page: its data lies beside its picture
  if (root.dataset.drawn) return;
  const before = [...root.childNodes];
  try { draw(root, root.dataset.kind, JSON.parse(root.querySelector("script").textContent), root.dataset.text); }
  catch (error) { root.replaceChildren(...before); root.dataset.drawn = "failed"; console.error(error); }    // the picture stays
}

export function render({model, el}) {                           // an anywidget: the kernel answers `ask`
  const root = document.createElement("div");
  const ask = question => { model.set("asked", question); model.save_changes(); };
  el.append(root);
  const update = draw(root, model.get("kind"), model.get("data"), model.get("text"), ask), changed = () => update?.(model.get("data"));
  model.on("change:data", changed);
  return () => model.off("change:data", changed);
}

export default {render};
