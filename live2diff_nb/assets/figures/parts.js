// What each part gives: one clip streamed with parts switched off, its X-T slice, its warp error and its detail.
import {card, h, player, side, toggle} from "./core.js";

export function parts(root, data) {
  const HIGH = 120, count = data.input.frames.length, names = Object.keys(data.parts);
  const switches = names.map(name => toggle(data.parts[name], {value: true, change: () => play.go(play.at)}));
  const pictures = h("div", {class: "panels dials"}), bars = h("div", {style: "flex: 1 1 14rem"}), say = h("p", {class: "say", "aria-live": "polite"});
  const play = player(root, {length: count, show: draw, text: "frame", rate: 8, start: data.at});
  root.append(h("div", {class: "bar"}, ...switches.map(one => one.el)), play.el, h("div", {class: "panels"}, pictures, bars), say,
    h("div", {class: "key"}, "below each picture its X-T slice: the dashed row over time, newest at the bottom; the line marks the frame that is shown"));

  function chosen() {                                             // a frame on its own has no warmup
    const memory = switches[names.indexOf("memory")].value, warmup = switches[names.indexOf("warmup")];
    warmup.input.disabled = !memory;
    warmup.el.style.opacity = memory ? 1 : .4;
    return names.map((name, k) => switches[k].value && (name !== "warmup" || memory) ? "1" : "0").join("");
  }
  function column(title, run, n) {
    const SIDE = side(root), y = 20 + SIDE * data.row, top = 26 + SIDE, now = top + HIGH * (n + .5) / count;
    const line = (at, dash) => [["#000", 3], ["#fff", 1.2]].map(([stroke, width]) => h("svg:line", {x1: 0, x2: SIDE, y1: at, y2: at, stroke, "stroke-width": width, "stroke-dasharray": dash}));
    return card(title, run.frames[n], run.warp === undefined ? "" : `warp error ${run.warp.toFixed(5)}`, {width: SIDE, height: SIDE, below: HIGH + 6, over: [line(y, "4 4"),
      h("svg:image", {href: run.slice, x: 0, y: top, width: SIDE, height: HIGH, preserveAspectRatio: "none"}), line(now, null)]});
  }
  function draw(n) {
    if (!root.contains(say)) return;
    const key = chosen(), whole = data.runs["1".repeat(names.length)], none = data.runs["0".repeat(names.length)], run = data.runs[key];
    const off = names.filter((_, k) => key[k] === "0"), rows = [["all parts", whole], ["as switched", run], ["no part", none]];
    pictures.replaceChildren(column("all parts", whole, n), column("as switched", run, n), column("the input", data.input, n));
    const most = Math.max(...Object.values(data.runs).map(one => one.warp)), left = 76, wide = 90;
    bars.replaceChildren(h("p", {class: "head"}, "warp error: what changes beyond the input's motion"), h("svg:svg", {viewBox: `0 0 ${left + wide + 56} 66`, width: left + wide + 56, role: "img", "aria-label": rows.map(([name, one]) => `${name} ${one.warp.toFixed(5)}`).join(", ")},
      rows.flatMap(([name, one], k) => [h("svg:text", {x: 0, y: 22 * k + 14}, name), h("svg:rect", {x: left, y: 22 * k + 2, width: Math.max(1, wide * one.warp / most), height: 16, rx: 2, fill: k === 1 ? "var(--orange)" : "var(--blue)"}),
        h("svg:text", {x: left + 6 + wide * one.warp / most, y: 22 * k + 14}, one.warp.toFixed(5))])));
    const times = run.warp / whole.warp, detail = run.detail / whole.detail;
    say.replaceChildren(h("b", {}, off.length ? `Without ${off.map(name => data.parts[name]).join(", ")}: ` : "All parts on: "),
      off.length ? `warp error ${times.toFixed(2)} times that of all parts, detail ${detail.toFixed(2)} times.` : `warp error ${run.warp.toFixed(5)}. Switch a part off and watch the slice.`);
    root.dataset.shows = `${key} ${n}`;
  }
  play.go(data.at);
}
