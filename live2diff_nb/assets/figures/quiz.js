// Questions on a chapter with new numbers each time, answered by typing and graded here, without a kernel.
// `answer` gives what the chapter's Python function gives; tests/test_exercises.py compares the two.
import {h} from "./core.js";

const whole = (low, high) => low + Math.floor(Math.random() * (high - low + 1));

export const QUESTIONS = {
  masks: [
    {ask: () => [whole(1, 4), whole(2, 8)],
      text: ([ahead, layers]) => `In each layer a frame looks at ${ahead} later frame${ahead > 1 ? "s" : ""}. The network has ${layers} layers. On how many later frames does a frame depend?`,
      answer: ([ahead, layers]) => ahead * layers,
      slips: ([ahead, layers]) => [[ahead, "That is one layer; the next layer reads frames that have looked ahead themselves."], [ahead + layers, "The reach of each layer is added again and again, so the two numbers multiply."]],
      hint: "Go through the layers one by one: how far does the second layer reach?"},
    {ask: () => { const warmup = whole(2, 6), cut = whole(warmup, 15); return [whole(0, cut + 12), cut, warmup]; },
      text: ([i, cut, warmup]) => `A new scene begins at frame ${cut}. Each scene has a warmup of ${warmup} frames, and no frame looks across the cut. How many frames may frame ${i} look at?`,
      answer: ([i, cut, warmup]) => Math.max(i >= cut ? i - cut + 1 : i + 1, warmup),
      slips: ([i, cut, warmup]) => [[i + 1, i >= cut ? "That also counts the frames before the cut." : "A warmup frame also sees the later frames of its warmup."], [i - cut + 1, "A warmup frame also sees the later frames of its warmup."]],
      hint: "Count from the first frame of the scene. A frame of the warmup sees the whole warmup."},
    {ask: () => { const warmup = whole(0, 10); return [whole(0, 30), warmup, warmup + whole(2, 12)]; },
      text: ([n, warmup, window]) => `Warmup L_w = ${warmup}, window L = ${window}. How many frames does streamed frame n = ${n} read, itself included? (n = 0 is the first after the warmup.)`,
      answer: ([n, warmup, window]) => Math.min(warmup + n + 1, window),
      slips: ([n, warmup, window]) => [[warmup + n + 1, "A stream reads no more than the window holds."], [warmup + n, "The frame reads itself too."], [window, "So early in the stream the window is not full yet."]],
      hint: "It reads the warmup and all streamed frames so far, until the window is full."},
  ],
  ring: [
    {ask: () => { const warmup = whole(0, 10); return [whole(0, 60), warmup + whole(2, 12), warmup]; },
      text: ([n, window, warmup]) => `L = ${window} slots, of which L_w = ${warmup} are warm. Which slot is streamed frame ${n} written to?`,
      answer: ([n, window, warmup]) => warmup + n % (window - warmup),
      slips: ([n, window, warmup]) => [[n % window, "That counts the warm slots into the ring; they are never overwritten."], [n % (window - warmup), "That is the place within the ring; the warm slots come before it."]],
      hint: "The ring has L - L_w slots and begins behind the warm ones."},
    {ask: () => { const warmup = whole(0, 10), ring = whole(2, 12); return [warmup + whole(0, ring - 1), ring - 1 + whole(0, 50), warmup + ring, warmup]; },
      text: ([j, n, window, warmup]) => `L = ${window}, L_w = ${warmup}. Streamed frame ${n} has just been written. Which streamed frame is in slot ${j}?`,
      answer: ([j, n, window, warmup]) => n - (n - (j - warmup)) % (window - warmup),
      slips: ([j, n, window, warmup]) => [[j - warmup, "That frame was the first in this slot; later ones have replaced it."]],
      hint: "It is the latest frame that was written to this slot. Frames that share a slot are L - L_w apart."},
    {ask: () => [4 ** whole(2, 5), 32 * whole(1, 10), 4 * whole(2, 5)],
      text: ([places, channels, window]) => `A layer of ${places} locations and ${channels} channels, L = ${window}, half precision. How many bytes does one more denoising step add to its cache?`,
      answer: ([places, channels, window]) => 2 * window * places * channels * 2,
      slips: ([places, channels, window]) => [[2 * window * places * channels, "Half of it is missing: keys and values are kept, and a number in half precision has two bytes."], [2 * places * channels * 2, "Each location keeps a key and a value for every slot."]],
      hint: "Each denoising step has a cache of its own: keys and values, every slot, every location, two bytes a number."},
  ],
  schedule: [
    {ask: () => [whole(-15, 15) / 10, whole(-20, 20) / 10, whole(2, 9) / 10], near: .01,
      text: ([x0, xt, abar]) => `The network says that the clean value is ${x0}. It was given x_t = ${xt} at a timestep with abar_t = ${abar}. Which noise does that imply? (Two digits are enough; ** 0.5 is a root.)`,
      answer: ([x0, xt, abar]) => (xt - Math.sqrt(abar) * x0) / Math.sqrt(1 - abar),
      slips: ([x0, xt, abar]) => [[xt - x0, "Picture and noise are weighted: x_t = sqrt(abar) x_0 + sqrt(1 - abar) z."], [(xt - abar * x0) / (1 - abar), "The weights are the square roots of abar and of 1 - abar."]],
      hint: "Solve x_t = sqrt(abar) x_0 + sqrt(1 - abar) z for z."},
    {ask: () => [whole(1, 4), whole(0, 10) / 10],
      text: ([steps, strength]) => `The LCM schedule has 50 timesteps, 999, 979, ... 19. With ${steps} step${steps > 1 ? "s" : ""} and strength ${strength}, at which timestep does a frame enter?`,
      answer: ([steps, strength]) => 20 * Math.max(steps, Math.round(50 * strength)) - 1,
      slips: ([steps, strength]) => [[1000 * strength, "The timesteps are 19, 39, ... 999: one less than a multiple of 20."], [20 * Math.round(50 * strength) - 1, "There must be as many timesteps left as there are steps."]],
      hint: "Strength is the share of the 50 timesteps that is left to run, at least as many as there are steps."},
    {ask: () => [20 * whole(1, 50) - 1],
      text: ([t]) => `Which index of an official t_index_list, for 50 steps, stands for timestep ${t}?`,
      answer: ([t]) => (999 - t) / 20,
      slips: ([t]) => [[(t + 1) / 20, "Index 0 is the noisiest timestep, 999."], [(t + 1) / 20 - 1, "Index 0 is the noisiest timestep, 999."]],
      hint: "Index 0 is 999, index 1 is 979."},
  ],
};

export function valueOf(typed) {                                  // a number, or arithmetic as in 8 + 23 % 8; else null
  if (!/^[\d+\-*/%().\s]+$/.test(typed) || !/\d/.test(typed)) return null;
  try { const value = Function(`"use strict"; return (${typed})`)(); return Number.isFinite(value) ? value : null; }
  catch (error) { return null; }
}

export function grade(chapter, number, asked, typed) {
  const {answer, slips, near = 1e-9} = QUESTIONS[chapter][number], right = answer(asked), value = valueOf(typed);
  const same = (a, b) => Math.abs(a - b) <= near;
  if (value === null) return {right: false, say: "Type a number, or arithmetic such as 8 + 23 % 8."};
  if (same(value, right)) return {right: true, say: "Right."};
  const slip = slips(asked).find(([wrong]) => same(value, wrong));
  return {right: false, say: `Not yet. ${slip ? slip[1] : `${+value.toFixed(3)} is too ${value < right ? "small" : "large"}.`}`};
}

export function quiz(root, data) {
  const card = (question, number) => {
    let asked;
    const text = h("p", {class: "head"}), say = h("p", {class: "say", role: "status", style: "min-height: 1.5em; margin: .2rem 0 0"});
    const input = h("input", {type: "text", autocomplete: "off", spellcheck: "false", "aria-label": `answer ${number + 1}`, onkeydown: event => event.key === "Enter" && check(),
      style: "font: inherit; width: 11rem; min-height: 2rem; padding: .1rem .5rem; color: var(--ink); background: var(--ground); border: 1px solid var(--faint); border-radius: 5px"});
    const button = (name, act) => h("button", {type: "button", onclick: act}, name);
    const box = h("div", {class: "question", style: "margin: 0 0 .9rem"}, text,
      h("div", {class: "bar"}, input, button("check", check), button("hint", () => say.replaceChildren(question.hint)), button("other numbers", renew)), say);
    function check() {
      const {right, say: said} = grade(data.chapter, number, asked, input.value);
      say.replaceChildren(h("b", {}, right ? "✓ " : ""), said);
      box.dataset.right = right;
    }
    function renew() {
      asked = question.ask();
      text.replaceChildren(`${number + 1}. ${question.text(asked)}`);
      box.dataset.asked = JSON.stringify(asked);
      delete box.dataset.right;
      input.value = ""; say.replaceChildren();
    }
    renew();
    return box;
  };
  root.append(...QUESTIONS[data.chapter].map(card));
}
