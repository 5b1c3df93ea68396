// Depth over time: frame, depth and the range that scales it; a range of each call against a running one.
import {card, choice, h, player, plot, stroke} from "./core.js";

export function depth(root, data) {
  const clips = Object.keys(data.clips), names = Object.keys(data.clips[clips[0]].ranges), fixed = names[0];
  const clip = choice("clip", clips.map(name => [name, name]), {value: clips[0], change: load});
  const other = choice("against", names.slice(1).map(name => [name, name]), {value: data.running, change: load});
  const pictures = h("div", {class: "panels dials"}), say = h("p", {class: "say", "aria-live": "polite"});
  const rangeBox = h("div", {class: "plot"}), pixelBox = h("div", {class: "plot"}), looks = {[fixed]: ["--orange", [7, 4]], other: ["--blue", null]};
  const play = player(root, {length: data.clips[clips[0]].frames.length, show: draw, text: "frame", rate: 3, start: data.at});
  const key = h("div", {class: "key"});
  root.append(h("div", {class: "bar"}, clip.el, other.el), play.el, pictures,
    h("div", {class: "panels"}, ...[["range of inverse depth: lowest and highest", rangeBox], ["one still place of the scaled depth", pixelBox]].map(([text, box]) => h("div", {style: "flex: 1 1 18rem"}, h("p", {class: "head"}, text), box))), key, say);
  let one = null, rangePlot = null, pixelPlot = null;

  function load() {
    one = data.clips[clip.value];
    const line = (name, n) => ({text: name, colour: looks[name === fixed ? fixed : "other"][0], dash: looks[name === fixed ? fixed : "other"][1] ?? undefined, width: 2.2});
    key.replaceChildren(...[fixed, other.value].map(name => { const [colour, dash] = looks[name === fixed ? fixed : "other"]; return h("span", {}, stroke(colour, dash), name); }),
      h("span", {}, `the first ${data.warmup} frames are the warmup`));
    rangePlot ??= plot(rangeBox, {x: "frame", y: "inverse depth", height: 150, data: [[0], [null], [null], [null], [null]], series: [line(fixed), line(fixed), line("other"), line("other")], range: {x: (_, low, high) => [0, Math.max(1, one.frames.length - 1)], y: undefined}});
    pixelPlot ??= plot(pixelBox, {x: "frame", y: "-1 far, 1 near", height: 150, data: [[0], [null], [null]], series: [line(fixed), line("other")], range: {x: (_, low, high) => [0, Math.max(1, one.frames.length - 1)], y: [-1.1, 1.1]}});
    play.resize(one.frames.length);
  }
  const place = () => [["#fff", 3], ["#000", 1.2]].map(([stroke, width]) => h("svg:circle", {cx: 160 * one.place[1], cy: 20 + 150 * one.place[0], r: 5, fill: "none", stroke, "stroke-width": width}));
  const jump = (values, n) => Math.max(0, ...values.slice(1, n + 1).map((v, i) => Math.abs(v - values[i])));
  function draw(n) {
    if (!one) return;
    const a = one.ranges[fixed], b = one.ranges[other.value], upTo = values => values.map((v, i) => i <= n ? v : null);
    pictures.replaceChildren(card(`frame ${n}`, one.frames[n], n < data.warmup ? "warmup" : "streamed", {over: place()}),
      ...[[fixed, a], [other.value, b]].map(([name, range]) => card(name, range.pictures[n], `place: ${range.place[n].toFixed(2)}`, {over: place()})));
    const xs = one.frames.map((_, i) => i);
    rangePlot.set([xs, upTo(a.low), upTo(a.high), upTo(b.low), upTo(b.high)]);
    pixelPlot.set([xs, upTo(a.place), upTo(b.place)]);
    for (const [box, text] of [[rangeBox, "lowest and highest inverse depth over the frames"], [pixelBox, `scaled depth of one place: ${a.place[n].toFixed(2)} and ${b.place[n].toFixed(2)}`]]) { box.setAttribute("role", "img"); box.setAttribute("aria-label", text); }
    say.replaceChildren("Largest step of the still place so far: ", h("b", {}, jump(a.place, n).toFixed(2)), ` (${fixed}) against `, h("b", {}, jump(b.place, n).toFixed(2)), ` (${other.value}); the whole range is 2.`);
    root.dataset.shows = `${clip.value} ${n}`;
  }
  load();
}
