// Training: the loss, and what the network makes of fixed pictures, at saved steps of one run.
import {card, h, player, plot, side, stroke} from "./core.js";

export function training(root, data) {
  const pictures = h("div", {}), box = h("div", {class: "plot"}), say = h("p", {class: "say", "aria-live": "polite"});
  const {losses, steps} = data, smooth = losses.map((_, n) => { const last = losses.slice(Math.max(0, n - 9), n + 1); return last.reduce((a, b) => a + b) / last.length; });
  const play = player(root, {length: steps.length, show: draw, text: "step", said: n => `step ${steps[n]} of ${losses.length}`, rate: 4, start: data.at});
  root.append(play.el, h("div", {class: "panels"}, pictures, h("div", {style: "flex: 1 1 18rem"}, h("p", {class: "head"}, "loss"), box, h("div", {class: "key"}, h("span", {}, stroke("--orange"), "mean of the last 10 steps"), h("span", {}, stroke("--blue"), "each step")))), say);
  let drawn = null;

  function draw(n) {
    if (!root.contains(say)) return;
    const SIDE = side(root, 150, 108), done = steps[n], upTo = values => values.map((v, i) => i < done ? v : null), columns = [losses.map((_, i) => i + 1), smooth, upTo(losses), upTo(smooth)];
    pictures.replaceChildren(...data.examples.map(one => h("div", {class: "panels dials three"}, card(one.name, one.input, "input", {width: SIDE, height: SIDE}),
      card(`after step ${done}`, one.made[n], `off by ${one.off[n].toFixed(3)}`, {width: SIDE, height: SIDE}), card("target", one.target, data.teacher, {width: SIDE, height: SIDE}))));
    if (drawn) drawn.set(columns);
    else drawn = plot(box, {x: "step", y: "loss", height: 220, data: columns, range: {x: () => [0, losses.length], y: (_, low, high) => [0, high * 1.05]},
      series: [{text: "whole run", colour: "--line", width: 1.5}, {text: "each step", colour: "--blue", width: 1}, {text: "mean", colour: "--orange", width: 2.5}]});
    const told = done ? `mean loss of the last ${Math.min(10, done)} steps ${smooth[done - 1].toFixed(3)}` : "the network as it came";
    box.setAttribute("role", "img"); box.setAttribute("aria-label", `loss over ${losses.length} steps; after step ${done}: ${told}`);
    say.replaceChildren(h("b", {}, `Step ${done}: `), `${told}. Mean absolute difference to the target: `, data.examples.map(one => `${one.name} ${one.off[n].toFixed(3)} (at first ${one.off[0].toFixed(3)})`).join(", "), ".");
    root.dataset.shows = `${done}`;
  }
  play.go(data.at);
}
